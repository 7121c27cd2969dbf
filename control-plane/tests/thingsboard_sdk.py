"""A device that is nothing but ThingsBoard's own Python SDK (tb-mqtt-client).

Speaks in lines of JSON with the test that started it: `{"step": …}` on standard output; a line on standard input lets it go on.
"""

import json
import ssl
import sys
import threading

import tb_device_mqtt
from tb_device_mqtt import ProvisionClient, TBDeviceMqttClient

PATIENCE = 60


def say(step, **more):
    print(json.dumps({"step": step, **more}), flush=True)


def go():
    if not sys.stdin.readline():
        raise SystemExit("the test has gone")


class Waiting:
    """Something that a callback brings."""

    def __init__(self, what):
        self.what, self.there, self.value = what, threading.Event(), None

    def bring(self, value):
        self.value = value
        self.there.set()

    def take(self):
        if not self.there.wait(PATIENCE):
            raise SystemExit("waited for " + self.what)
        self.there.clear()
        return self.value


def connected(client, **tls):
    # The SDK takes a callback in only after its thread has begun, which may be connected by then and never call it.
    done = Waiting("the connection")
    mqtt = client._client
    sdks_own = mqtt.on_connect

    def on_connect(*arguments):
        sdks_own(*arguments)
        done.bring(True)

    mqtt.on_connect = on_connect
    client.connect(tls=True, **tls)
    done.take()
    return client


def provision(host, port, ca):
    # The SDK knows TLS for provisioning on port 8883 alone.
    class OverTls(ProvisionClient):
        def __init__(self, request):
            super().__init__(host, port, request)
            self.tls_set(ca_certs=ca, cert_reqs=ssl.CERT_REQUIRED)

    def ask(**more):
        client = OverTls({"provisionDeviceKey": "key-1", "provisionDeviceSecret": "secret-1", **more})
        client.provision(PATIENCE)
        return client.get_credentials()

    made = ask(deviceName="sdk-device")
    say("provisioned", credentials=made)
    say("refused", credentials=ask(provisionDeviceSecret="wrong"))
    basic = ask(deviceName="sdk-basic", credentialsType="MQTT_BASIC", clientId="c-1", username="u-1", password="p-1")
    say("provisioned-basic", credentials=basic)
    return made["credentialsValue"]


def talk(client):
    sent = client.send_telemetry({"temperature": 21.5, "on": True}).get()
    client.send_telemetry([{"ts": 1700000000000, "values": {"humidity": 40}}, {"ts": 1700000001000, "values": {"humidity": 41}}]).get()
    say("telemetry", result=int(sent))
    client.send_attributes({"serial": "sdk-1", "nested": {"a": [1, 2]}}).get()

    pushed = Waiting("a pushed attribute")
    client.subscribe_to_attribute("interval", lambda value, *_: pushed.bring(value))
    say("attributes")
    go()
    say("pushed", value=pushed.take())

    asked = Waiting("requested attributes")
    client.request_attributes(["serial"], ["interval"], callback=lambda value, *_: asked.bring(value))
    say("requested", value=asked.take())

    answered = Waiting("an answer of the server")
    client.send_rpc_call("getCurrentTime", {}, lambda _, value, *__: answered.bring(value))
    say("server-time", value=answered.take())
    client.send_rpc_call("no-such-method", {}, lambda _, value, *__: answered.bring(value))
    say("server-error", value=answered.take())

    called = Waiting("a call")

    def handle(request_id, body):
        called.bring(body)
        client.send_rpc_reply(request_id, {"echo": body["params"]})

    client.set_server_side_rpc_request_handler(handle)
    say("listening")
    say("called", value=called.take())
    client.claim("secret-key", 60000).get()
    go()


def firmware(host, port, token, ca):
    client = TBDeviceMqttClient(host, port, username=token, chunk_size=1000)
    got = Waiting("the firmware")
    client.set_on_firmware_received_callback(lambda _, data, version: got.bring((data, version)))
    connected(client, ca_certs=ca)
    client.get_firmware_update()
    say("asking")
    data, version = got.take()
    say("firmware", size=len(data), version=version, sum=sum(data))
    client.update_firmware_info(state=tb_device_mqtt.TBFirmwareState.UPDATED, title="app", version=version)
    go()
    client.disconnect()


def main():
    host, port, ca, cert, key = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
    token = provision(host, port, ca)
    client = connected(TBDeviceMqttClient(host, port, username=token), ca_certs=ca)
    talk(client)
    client.disconnect()
    firmware(host, port, token, ca)
    # X.509: the certificate of an enrolled node, and no token at all.
    client = connected(TBDeviceMqttClient(host, port), ca_certs=ca, cert_file=cert, key_file=key)
    client.send_telemetry({"by": "certificate"}).get()
    client.disconnect()
    say("done")


main()
