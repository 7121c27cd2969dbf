//! MQTT topics of a device. They name `me`, never a device: who speaks is known from the connection.

use crate::WireError;

/// Publish telemetry here.
pub const TELEMETRY: &str = "v1/devices/me/telemetry";
/// Publish client attributes here; subscribe for changes of shared ones.
pub const ATTRIBUTES: &str = "v1/devices/me/attributes";
/// Subscribe for answers to attribute requests.
pub const ATTRIBUTES_RESPONSES: &str = "v1/devices/me/attributes/response/+";
/// Subscribe for calls from the server.
pub const RPC_REQUESTS: &str = "v1/devices/me/rpc/request/+";
/// Subscribe for the server's answers to the device's calls.
pub const RPC_RESPONSES: &str = "v1/devices/me/rpc/response/+";
/// Publish a claim here.
pub const CLAIM: &str = "v1/devices/me/claim";
/// Publish a provisioning request here.
pub const PROVISION_REQUEST: &str = "/provision/request";
/// Subscribe for its answer.
pub const PROVISION_RESPONSE: &str = "/provision/response";

const ATTRIBUTES_REQUEST: &str = "v1/devices/me/attributes/request/";
const ATTRIBUTES_RESPONSE: &str = "v1/devices/me/attributes/response/";
const RPC_REQUEST: &str = "v1/devices/me/rpc/request/";
const RPC_RESPONSE: &str = "v1/devices/me/rpc/response/";

/// A package that is served in chunks over MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Package {
    /// `fw`: firmware.
    Firmware,
    /// `sw`: software.
    Software,
}

impl Package {
    /// `fw` or `sw`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firmware => "fw",
            Self::Software => "sw",
        }
    }
}

/// What a device publishes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromDevice {
    /// Telemetry.
    Telemetry,
    /// Client attributes.
    Attributes,
    /// A request for attributes; its number comes back in the answer's topic.
    AttributesRequest(u32),
    /// A call to the server.
    RpcRequest(u32),
    /// The answer to the server's call.
    RpcResponse(u32),
    /// A claim.
    Claim,
    /// A provisioning request.
    Provision,
    /// A chunk of a package.
    Chunk {
        /// Which package.
        package: Package,
        /// The device's own number of the download.
        request: u32,
        /// Which chunk, from 0.
        chunk: u32,
    },
}

impl FromDevice {
    /// Reads a topic that a device published to.
    ///
    /// # Errors
    /// [`WireError::Topic`] if no device has any business there.
    pub fn parse(topic: &str) -> Result<Self, WireError> {
        let unknown = || WireError::Topic(topic.chars().take(128).collect());
        let number = |text: &str| text.parse::<u32>().map_err(|_| unknown());
        match topic {
            TELEMETRY => return Ok(Self::Telemetry),
            ATTRIBUTES => return Ok(Self::Attributes),
            CLAIM => return Ok(Self::Claim),
            PROVISION_REQUEST => return Ok(Self::Provision),
            _ => {}
        }
        if let Some(id) = topic.strip_prefix(ATTRIBUTES_REQUEST) {
            return number(id).map(Self::AttributesRequest);
        }
        if let Some(id) = topic.strip_prefix(RPC_REQUEST) {
            return number(id).map(Self::RpcRequest);
        }
        if let Some(id) = topic.strip_prefix(RPC_RESPONSE) {
            return number(id).map(Self::RpcResponse);
        }
        for package in [Package::Firmware, Package::Software] {
            let prefix = format!("v2/{}/request/", package.as_str());
            if let Some((request, chunk)) = topic
                .strip_prefix(&prefix)
                .and_then(|rest| rest.split_once("/chunk/"))
            {
                return Ok(Self::Chunk {
                    package,
                    request: number(request)?,
                    chunk: number(chunk)?,
                });
            }
        }
        Err(unknown())
    }
}

/// Where a request for attributes is published.
pub fn attributes_request(id: u32) -> String {
    format!("{ATTRIBUTES_REQUEST}{id}")
}

/// Where its answer comes.
pub fn attributes_response(id: u32) -> String {
    format!("{ATTRIBUTES_RESPONSE}{id}")
}

/// Where a call is published: the server's to the device, or the other way.
pub fn rpc_request(id: u32) -> String {
    format!("{RPC_REQUEST}{id}")
}

/// Where its answer is published.
pub fn rpc_response(id: u32) -> String {
    format!("{RPC_RESPONSE}{id}")
}

/// The number of the server's call, or of the server's answer, from its topic.
pub fn trailing_id(topic: &str) -> Option<u32> {
    topic.rsplit_once('/')?.1.parse().ok()
}

/// Where a chunk of a package is answered.
pub fn chunk_response(package: Package, request: u32, chunk: u32) -> String {
    format!("v2/{}/response/{request}/chunk/{chunk}", package.as_str())
}

/// Where an error about a package is told.
pub fn chunk_error(package: Package) -> String {
    format!("v2/{}/error", package.as_str())
}

/// Whether a device may subscribe to this filter: only what is meant for `me`, without a wildcard where the scheme has none.
pub fn may_subscribe(filter: &str) -> bool {
    const FILTERS: [&str; 10] = [
        ATTRIBUTES,
        ATTRIBUTES_RESPONSES,
        RPC_REQUESTS,
        RPC_RESPONSES,
        "v2/fw/response/+/chunk/+",
        "v2/fw/error",
        // ThingsBoard's Python client; its server gives chunks to whoever subscribed for something of the package.
        "v2/fw/response/+",
        "v2/sw/response/+",
        "v2/sw/response/+/chunk/+",
        "v2/sw/error",
    ];
    if FILTERS.contains(&filter) {
        return true;
    }
    // The `+` may be filled in.
    FILTERS.iter().any(|allowed| {
        let (mut a, mut b) = (allowed.split('/'), filter.split('/'));
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (Some("+"), Some(part)) if part.parse::<u32>().is_ok() || part == "+" => {}
                (Some(x), Some(y)) if x == y => {}
                _ => return false,
            }
        }
    })
}
