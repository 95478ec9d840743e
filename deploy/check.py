#!/usr/bin/env python3
"""Checks dashboards, alerts, runbooks and links against each other, and the series against the code.

Reads only. What needs a Prometheus is checked elsewhere: promtool tests the rules and reads the queries of the dashboards
(`--queries` prints them as rules), and the tests on a real cluster run each of them.
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
FILES = ROOT / "helm/flotilla/files"
mistakes = []


def need(holds, mistake):
    if not holds:
        mistakes.append(mistake)


def series(text):
    """Names of our series in a query or a rule."""
    # A label of targets, not a series.
    return set(re.findall(r"\b(?:flotilla|process)_[a-z0-9_]+", text)) - {"flotilla_dev_cluster"}


def known(name, sources):
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    if name.startswith("flotilla_operator_"):
        # Its metrics are named without the prefix that all of them have.
        short = [re.sub(r"^flotilla_operator_(cluster_)?", "", part) for part in (name, base)]
        return any(f'"{part}"' in sources["operator"] for part in (name, base, *short))
    return any(f'"{part}"' in sources["server"] for part in (name, base))


def check_dashboards(sources):
    boards = sorted((FILES / "dashboards").glob("*.json"))
    need(len(boards) >= 5, "dashboards are missing")
    uids = set()
    for path in boards:
        board = json.loads(path.read_text())
        need(board["uid"] not in uids, f"{path.name}: its uid is another's, too")
        uids.add(board["uid"])
        cells, ids = set(), set()
        for panel in board["panels"]:
            at = f"{path.name}: {panel['title']!r}"
            need(panel["id"] not in ids, f"{at}: its id is another's, too")
            ids.add(panel["id"])
            place = panel["gridPos"]
            need(place["x"] + place["w"] <= 24, f"{at}: is wider than the page")
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    need((x, y) not in cells, f"{at}: lies over another")
                    cells.add((x, y))
            if panel["type"] == "row":
                continue
            need(panel.get("description", "").endswith("."), f"{at}: has no sentence")
            need(panel["fieldConfig"]["defaults"].get("unit"), f"{at}: has no unit")
            need(panel["datasource"]["uid"] == "${datasource}", f"{at}: names a data source of its own")
            need(panel["targets"], f"{at}: asks nothing")
            for target in panel["targets"]:
                for name in series(target["expr"]):
                    need(known(name, sources), f"{at}: nothing exports {name}")


def check_alerts(sources):
    files = {path.stem: path.read_text() for path in (FILES / "alerts").glob("*.yaml")}
    tests = {path.stem: path.read_text() for path in (FILES / "alerts/tests").glob("*.yaml")}
    pages = {path.stem: path.read_text() for path in (ROOT / "docs/runbooks").glob("*.md")}
    index = pages.pop("README")
    need(files.keys() == tests.keys(), f"alerts without a test, or the reverse: {sorted(files.keys() ^ tests.keys())}")
    need(files.keys() == pages.keys(), f"alerts without a runbook, or the reverse: {sorted(files.keys() ^ pages.keys())}")
    for stem, text in files.items():
        alerts = re.findall(r"- alert: (\w+)", text)
        need(len(alerts) == 1, f"{stem}.yaml: has {len(alerts)} alerts, should have one")
        test = tests.get(stem, "")
        for what, case in (("holds", r"\n +exp_alerts:\s*\n +- exp_labels"), ("does not", r", exp_alerts: \[\]")):
            need(re.search(rf"alertname: {alerts[0]}{case}", test), f"tests/{stem}.yaml: no case in which {alerts[0]} {what}")
        need(f"runbook_url: docs/runbooks/{stem}.md\n" in text, f"{stem}.yaml: links to no runbook, or to another's")
        for word in ("severity:", "summary:", "description:", "for:"):
            need(word in text, f"{stem}.yaml: has no {word[:-1]}")
        severity = re.search(r"severity: (\w+)", text)[1]
        need(f"| [{alerts[0]}]({stem}.md) | {severity} |" in index, f"docs/runbooks/README.md: does not list {alerts[0]}")
        title = pages.get(stem, "\n").splitlines()[0]
        need(title == f"# {alerts[0]}", f"docs/runbooks/{stem}.md: is headed {title!r}")
        for name in series(re.search(r"expr: \|\n((?: {10}.*\n)+)", text)[1]):
            need(known(name, sources), f"{stem}.yaml: nothing exports {name}")


def check_scraping():
    """Who configures Prometheus by hand copies this. Alerts go by these labels, which a ServiceMonitor gives without a word."""
    page = (ROOT / "docs/kubernetes.md").read_text()
    jobs = dict(re.findall(r"^- job_name: (\S+)\n((?: .*\n)+)", page, re.MULTILINE))
    need(jobs.keys() == {"flotilla", "flotilla-operator"}, f"docs/kubernetes.md: scrapes {sorted(jobs)}")
    for job, text in jobs.items():
        for source, label in (("namespace", "namespace"), ("pod_name", "pod")):
            relabels = f"- {{source_labels: [__meta_kubernetes_{source}], target_label: {label}}}\n" in text
            need(relabels, f"docs/kubernetes.md: job {job} does not say of which {label} a target is")
        interval = re.search(r"^  scrape_interval: (\d+)s\b", text, re.MULTILINE)
        need(interval and 1 <= int(interval[1]) <= 60, f"docs/kubernetes.md: job {job} is not scraped once a minute")
    need("\n  honor_labels: true" in "\n" + jobs.get("flotilla-operator", ""),
         "docs/kubernetes.md: the namespace of a cluster becomes the operator's")


def check_variables():
    """What the chart sets itself nobody may set a second time: it refuses these names by a list."""
    text = (ROOT / "helm/flotilla/templates/deployment.yaml").read_text()
    listed = set(re.search(r'\$own := splitList " " "([^"]+)"', text)[1].split())
    there = set(re.findall(r"- \{?name: ([A-Z_]+)", re.search(r"^ +env:\n(.*?)^ +ports:", text, re.MULTILINE | re.DOTALL)[1]))
    need(listed == there, f"deployment.yaml: variables that it sets, or refuses in extraEnv, alone: {sorted(listed ^ there)}")


def anchors(page):
    """Names by which headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_links():
    for page in [ROOT / "README.md", *(p for part in ("docs", "deploy", "helm") for p in (ROOT / part).rglob("*.md"))]:
        # Programs may call what an index gives.
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
            goal = page.parent / link if link else page
            need(goal.exists(), f"{page.relative_to(ROOT)}: {link} is not there")
            if heading and goal.exists():
                need(heading in anchors(goal), f"{page.relative_to(ROOT)}: {link} has no heading {heading}")


def print_queries():
    """As a file of rules, with what Grafana would put in for the variables: promtool knows no other."""
    rules = []
    for path in sorted((FILES / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                query = re.sub(r"\$__(rate_interval|interval|range)", "5m", target["expr"])
                query = re.sub(r"\$\w+", ".*", query)
                rules.append({"record": f"query:{path.stem}:{len(rules)}", "expr": query})
    # JSON is YAML.
    print('{"groups": [{"name": "queries", "rules": [')
    print(",\n".join("{" + f'record: {json.dumps(rule["record"])}, expr: {json.dumps(rule["expr"])}' + "}" for rule in rules))
    print("]}]}")


def main():
    if sys.argv[1:] == ["--queries"]:
        print_queries()
        return
    sources = {
        part: "\n".join(path.read_text() for path in (ROOT / part / "src").rglob("*.rs"))
        for part in ("server", "operator")
    }
    check_dashboards(sources)
    check_alerts(sources)
    check_scraping()
    check_variables()
    check_links()
    for mistake in mistakes:
        print(mistake)
    sys.exit(1 if mistakes else 0)


main()
