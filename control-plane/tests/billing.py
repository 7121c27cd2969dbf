"""A bill by somebody else's arithmetic: numpy's percentiles and Python's calendar.

Reads five-minute samples (time,rx,tx; a gap has no numbers) and a rule as JSON, writes the figures as JSON.
"""

import json
import math
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy

samples = [line.split(",") for line in open(sys.argv[1])]


def bps(rule, rx, tx):
    bytes_ = {"rx": rx, "tx": tx, "larger": max(rx, tx), "sum": rx + tx}[rule["direction"]]
    return bytes_ * 8 // 300


def percentile(rule, values):
    if not values:
        return None
    if rule["rounding"] == "down":
        return int(numpy.percentile(numpy.array(values), rule["percent"], method="inverted_cdf"))
    out = math.ceil(len(values) * (100 - rule["percent"]) / 100)
    return sorted(values, reverse=True)[min(out, len(values) - 1)]


def figures(rule):
    zone = ZoneInfo(rule["zone"])
    days = {}
    for time, rx, tx in samples:
        local = datetime.fromtimestamp(int(time), zone)
        if local.strftime("%Y-%m") != rule["month"]:
            continue
        day = days.setdefault(local.date().isoformat(), [])
        if rx.strip():
            day.append(bps(rule, int(rx), int(tx)))
        elif rule["gaps"] == "zero":
            day.append(0)
    daily = [percentile(rule, day) for _, day in sorted(days.items())]
    peaks = [max(day, default=None) for _, day in sorted(days.items())]
    known, peaked = ([one for one in all_ if one is not None] for all_ in (daily, peaks))
    return {
        "month": percentile(rule, [sample for day in days.values() for sample in day]),
        "daily": daily,
        "daily_mean": sum(known) // len(known) if known else None,
        "peak_mean": sum(peaked) // len(peaked) if peaked else None,
        "ranked": sorted(peaked, reverse=True)[rule["rank"] - 1] if len(peaked) >= rule["rank"] else None,
    }


json.dump([figures(rule) for rule in json.load(sys.stdin)], sys.stdout)
