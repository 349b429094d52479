#!/usr/bin/env python3
"""Schemathesis against the real service: requests made from its OpenAPI document, good ones and broken ones, and every answer held
against the document. `run.py HALTLINE`, with the Python of the environment that Schemathesis is installed in.

The seed is fixed and the time bounded. It fails as well if fewer operations were tested than there are, so that it
cannot succeed by testing nothing.
"""

import collections
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
# Longer than it takes on a machine that has much else to do; what takes longer has gone wrong.
SECONDS = 1_800
# How long anything else may take that has to happen.
PATIENCE = 120
# As many operations as there are at least, and answers of each that are checked.
OPERATIONS = 45
LEAST = 3
# Where there is nothing here for which the answer could be a good one; `cargo test --test it routes` has those.
NEVER_GOOD = {
    "POST /v1/rearm",  # names the epoch of now, and nobody makes that up
    "POST /v1/rearm/{id}/approve",  # takes a second person
    "POST /v1/overrides/{id}/approve",
    "PUT /v1/limits",  # takes the whole file, and its tag
    "POST /v1/probation/firm/promote",  # nothing was re-armed
    "POST /v1/probation/{kind}/{name}/promote",
    "POST /v1/logout",  # who came with a token has no login to end
    "POST /v1/login",  # nobody is told a token
    "POST /v1/manifest/reload",  # nothing is attested here
    "POST /v1/sessions/{name}/approve",
    "POST /v1/wake",
}

CONFIG = """
[service]
state_dir = "state"
[ingest]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
[engine]
working_orders = 4_096
remembered_orders = 1_024
execs = 4_096
pairs = 64
recent_orders = 1_024
[journal]
segment_bytes = 1_048_576
ring_cells = 32_768
[accounts.main]
[strategies.alpha]
account = "main"
[strategies.drill]
account = "main"
[instruments.ACME]
px_scale = 2
qty_scale = 0
reference = "10.00"
reference_max_age = "unlimited"
[sessions.gw-1]
kind = "ask"
token_hash = "GATEWAY"
[sessions.drill]
kind = "ask"
[drill]
session = "drill"
strategy = "drill"
instrument = "ACME"
[limits_api]
write = true
[rearm]
probation = { fraction = "25%", for = "10m" }
[auth]
two_person_rearm = ["strategy"]
tokens = [{ name = "rita", role = "risk", hash = "RITA" }]
[limits.firm]
others = "unlimited"
[limits.account."*"]
others = "unlimited"
[limits.strategy."*"]
order_qty = 1_000
others = "unlimited"
[limits.pair."*"]
others = "unlimited"
[limits.instrument."*"]
others = "unlimited"
[limits.session."*"]
others = "unlimited"
"""


def make_token(haltline):
    """A token and its hash, as the program makes them."""
    made = subprocess.run(
        [haltline, "token", "--name", "x", "--role", "risk"], check=True, capture_output=True, text=True
    )
    token = made.stdout.strip()
    return token, re.search(r"[0-9a-f]{64}", made.stderr.replace(token, "")).group(0)


class Service:
    """The real program, with files of its own."""

    def __init__(self, haltline, where):
        self.token, rita = make_token(haltline)
        _, gateway = make_token(haltline)
        ring = f'ring_cells = 32_768\nring_dir = "{where}"'
        text = CONFIG.replace("RITA", rita).replace("GATEWAY", gateway).replace("ring_cells = 32_768", ring)
        (where / "haltline.toml").write_text(text)
        subprocess.run([haltline, "init", "--config", "haltline.toml"], cwd=where, check=True, capture_output=True)
        self.log = where / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [haltline, "serve", "--config", "haltline.toml"], cwd=where, stdout=subprocess.DEVNULL, stderr=log
            )
        self.url = self.wait_for_address()

    def wait_for_address(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"people at (http://\S+)", self.log.read_text())
            if found:
                return found.group(1)
            time.sleep(0.02)
        sys.exit(f"the service does not serve:\n{self.log.read_text()}")

    def ask(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        for left in reversed(range(20)):
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 408 or left == 0:
                    raise
            # Who says nothing for three seconds, which this process may do when the machine is busy, is hung up on before anything
            # was begun.
            except OSError:
                if left == 0:
                    raise

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)


def made_concrete(document, ids):
    """The document, with what there is here in the place of names and ids that anybody could make up: an answer of 404 would
    say little about the rest."""
    document = json.loads(json.dumps(document))
    schemas = document["components"]["schemas"]
    named = [("strategy", "alpha"), ("account", "main"), ("instrument", "ACME"), ("session", "gw-1")]
    scopes = [{"kind": "firm"}, {"kind": "firm", "name": ""}, {"kind": "firm", "name": None}]
    scopes += [{"kind": kind, "name": name} for kind, name in named]
    schemas["HaltableScope"] = {"enum": scopes}
    for request in ("Change", "OverrideAsk"):
        schemas[request]["properties"]["scope"] = {"$ref": "#/components/schemas/HaltableScope"}
        schemas[request]["properties"]["rule"] = {"enum": ["order_qty", "gross_exposure", "working_orders"]}
    values = {"kind": ["strategy"], "name": ["alpha"]}
    for path, item in document["paths"].items():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    known = ids.get(path.split("/")[2], []) if parameter["name"] == "id" else values[parameter["name"]]
                    if "/sessions/" in path:
                        known = ["gw-1"]
                    parameter["schema"] = {"type": "string", "enum": known + ["1"] if not known else known}
                elif path == "/v1/kill/preview":
                    parameter["schema"]["enum"] = values[parameter["name"]]
    return document


def fill(service):
    """Something of every kind, so that there is something to show; ids by what they are of."""
    scope = {"kind": "strategy", "name": "alpha"}
    drill = service.ask("POST", "/v1/drills", {"reason": "before"})
    override = {"scope": scope, "rule": "order_qty", "limit": "5", "for_seconds": 600, "reason": "x"}
    override = service.ask("POST", "/v1/overrides", override)
    kill = service.ask("POST", "/v1/kill", {"scope": scope, "reason": "x", "wait_ms": 5000})
    rearm = service.ask("POST", "/v1/rearm", {"scope": scope, "epoch": kill["epoch"], "reason": "x"})
    end = time.monotonic() + PATIENCE
    incidents = alerts = []
    while time.monotonic() < end and not (incidents and alerts):
        incidents = [one["id"] for one in service.ask("GET", "/v1/incidents")["incidents"]]
        alerts = [one["id"] for one in service.ask("GET", "/v1/alerts")["alerts"]]
    ids = {"kills": [kill["id"]], "rearm": [rearm["id"]], "drills": [drill["id"]], "overrides": [override["id"]]}
    return ids | {"incidents": incidents[:1], "alerts": alerts[:1]}


def looked_at(report):
    """How many answers to each operation were checked, and how many of them were good ones; by the report of the run itself."""
    checked, good = collections.Counter(), collections.Counter()
    for line in report.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for number, checks in recorder.get("checks", {}).items():
            answer = recorder["interactions"][number]["response"]
            if checks and answer is not None:
                checked[recorder["label"]] += 1
                good[recorder["label"]] += answer["status_code"] < 300
    return checked, good


def main():
    haltline = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as where:
        where = pathlib.Path(where)
        service = Service(haltline, where)
        document = service.ask("GET", "/v1/openapi.json")
        operations = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
        (where / "openapi.json").write_text(json.dumps(made_concrete(document, fill(service))))
        report = where / "report.ndjson"
        command = [pathlib.Path(sys.executable).parent / "schemathesis", "--config-file", HERE / "schemathesis.toml"]
        command += ["run", where / "openapi.json", "--url", service.url, "--header", f"Authorization: Bearer {service.token}"]
        command += ["--report", "ndjson", "--report-ndjson-path", report, *sys.argv[2:]]
        try:
            done = subprocess.run(command, cwd=where, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            service.process.kill()
            sys.exit(f"schemathesis took more than {SECONDS} s")
        ended = service.end()
        checked, good = looked_at(report)
        of = f"{len(checked)} of {len(operations)} operations"
        print(f"{sum(checked.values())} answers of {of} were checked, {sum(good.values())} of them good ones")
        if done.returncode != 0:
            sys.exit(f"schemathesis found something (exit code {done.returncode})")
        if ended != 0:
            sys.exit(f"the service ended with {ended}:\n{service.log.read_text()[-4000:]}")
        # A run that tests nothing finds nothing.
        few = {one: checked[one] for one in operations if checked[one] < LEAST}
        bad = {one for one in operations if good[one] == 0} - NEVER_GOOD
        if few or bad or len(operations) < OPERATIONS:
            sys.exit(f"too little was tested: {len(operations)} operations; too seldom {few}; never with success {bad}")


if __name__ == "__main__":
    main()
