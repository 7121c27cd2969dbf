//! The audit log.

use serde_json::Value;

use super::{cell, field, moment};
use crate::client::Client;
use crate::error::Result;
use crate::output::{Output, clean, table};

/// Options of `audit`.
#[derive(Debug, clap::Args)]
pub struct Audit {
    /// The last so many lines
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = super::count())]
    last: usize,
    /// Only of this subject, as device/edge-7
    #[arg(long)]
    subject: Option<String>,
    /// Only by this caller
    #[arg(long)]
    who: Option<String>,
}

impl Audit {
    /// Runs `audit`.
    ///
    /// # Errors
    /// If the server can't be reached or says no.
    pub async fn run(self, output: &Output) -> Result<()> {
        let client = Client::open()?;
        let mut query = Vec::new();
        query.extend(self.subject.map(|subject| ("subject", subject)));
        query.extend(self.who.map(|who| ("who", who)));
        let items = client.list("/v1/audit", &query, self.last).await?;
        output.result(&Value::from(items.clone()), || {
            let rows: Vec<_> = items
                .iter()
                .map(|e| {
                    let detail = clean(&field(e, "detail").to_string());
                    vec![
                        moment(e, "time"),
                        cell(e, "who"),
                        cell(e, "action"),
                        cell(e, "subject"),
                        detail,
                    ]
                })
                .collect();
            table(
                "no line matches",
                &["TIME", "WHO", "ACTION", "SUBJECT", "DETAIL"],
                &rows,
            )
        })
    }
}
