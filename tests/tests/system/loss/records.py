"""What a node's traffic records prove, by somebody else's arithmetic: docs/traffic.md, SHA-256 and openssl.

Takes the control plane's database; writes how many records there are, or says what is wrong with one.
"""

import hashlib
import json
import sqlite3
import subprocess
import sys
import tempfile

database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=30)
(key,) = database.execute("SELECT public_key FROM device").fetchone()
rows = database.execute("SELECT number, slot, body FROM traffic_record ORDER BY chain, number").fetchall()


def written(record):
    def meter(it):
        return {name: it[name] for name in ("kind", "name", "customer", "business") if name in it}

    def usage(it):
        return {"meter": meter(it["meter"])} | {name: it[name] for name in ("rx", "tx", "estimated") if name in it}

    parts = {name: record[name] for name in ("chain", "number", "previous", "slot")}
    parts["usage"] = [usage(it) for it in record["usage"]]
    return json.dumps(parts, separators=(",", ":"), ensure_ascii=False).encode()


def verify(digest, signature):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in [("key", key), ("signature", signature), ("signed", b"cairn-traffic-v1\n" + digest)]:
            with open(f"{folder}/{name}", "wb") as file:
                file.write(content)
        openssl = ["openssl", "dgst", "-sha256", "-keyform", "DER", "-verify", "key", "-signature", "signature", "signed"]
        subprocess.run(openssl, cwd=folder, check=True, stdout=subprocess.DEVNULL)


before = None
for expected, (number, slot, body) in enumerate(rows):
    signed = json.loads(body)
    record = signed["record"]
    assert (record["number"], record["slot"]) == (number, slot * 300), f"{record} is in another's place"
    assert number == expected, f"expected record {expected}, got {number}"
    assert record["previous"] == before, f"record {number} is bound to {record['previous']}, not to {before}"
    digest = hashlib.sha256(written(record)).digest()
    verify(digest, bytes.fromhex(signed["signature"]))
    before = digest.hex()
slots = [slot for _, slot, _ in rows]
assert slots == sorted(set(slots)), f"a slot has two records: {slots}"
print(len(rows))
