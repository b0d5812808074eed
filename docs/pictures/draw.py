#!/usr/bin/env python3
"""Draws architecture.svg beside this file. Run it after a change; the result is committed."""

from html import escape
from pathlib import Path

PLAIN, ROOM, STORE, OUTSIDE = "#ffffff", "#e8f1fb", "#fdf3dc", "#eeeeee"
# Left, top, width, height, colour, title, lines.
BOXES = {
    "people": (20, 30, 150, 60, OUTSIDE, "Browser", ["pages, htmx"]),
    "scripts": (20, 110, 150, 60, OUTSIDE, "Scripts", ["JSON API v1, v2"]),
    "command": (20, 190, 150, 60, OUTSIDE, "Command line", ["cli"]),
    "edges": (230, 30, 190, 140, PLAIN, "Edges", ["http: login, limits, errors", "web: pages and fragments", "api: operations, OpenAPI", "each read is one snapshot"]),
    "account": (480, 30, 170, 60, ROOM, "account", ["users, roles, logins"]),
    "study": (480, 105, 170, 60, ROOM, "study, import", ["cohorts … scans; reads"]),
    "workflow": (480, 180, 170, 60, ROOM, "workflow", ["files, graphs, conditions"]),
    "engine": (230, 200, 190, 120, ROOM, "engine", ["locked.rs: the only place", "where states change (E1)", "create, report, transition,", "timeout, lease, intervene"]),
    "process": (480, 265, 170, 55, OUTSIDE, "condition process", ["monty, limited (E9)"]),
    "database": (710, 30, 170, 290, STORE, "Database", ["SQLite, PostgreSQL", "or MariaDB", "", "study and history", "accounts, sessions", "audit trail", "outbox of mails", "", "callback_execution:", "the work queue"]),
    "service": (230, 365, 190, 80, PLAIN, "maintenance", ["every second: timeouts (E8),", "expired leases (Q4)", "relay, mails, audit seals"]),
    "broker": (480, 365, 170, 80, STORE, "RabbitMQ", ["optional; each message is", "an attempt and its secret", "(Q1, Q2)"]),
    "worker": (480, 490, 170, 80, ROOM, "worker: pool", ["claim, run, heartbeat,", "report (Q3)"]),
    "callback": (710, 490, 170, 80, ROOM, "callback", ["one file a function", "and program guards (Q8)"]),
    "programs": (710, 365, 170, 80, OUTSIDE, "Other systems", ["programs, Docker, fastr", "XNAT, TaskManager", "Castor, mail"]),
}
# Path, and a label with its place.
ARROWS = [
    ("M170 60 H224", None),
    ("M170 140 H224", None),
    ("M170 220 H224", None),
    ("M325 170 V194", ("verbs", 333, 187)),
    ("M420 60 H474", None),
    ("M420 135 H474", None),
    ("M420 225 H474", None),
    ("M565 240 V259", None),
    ("M650 60 H704", None),
    ("M650 135 H704", None),
    ("M650 210 H704", None),
    ("M420 306 H450 V342 H795 V326", ("one transaction (E2)", 500, 337)),
    ("M325 365 V326", None),
    ("M420 405 H474", ("publish", 424, 398)),
    ("M565 445 V484", None),
    ("M650 530 H704", None),
    ("M795 490 V451", None),
    ("M480 530 H200 V300 H224", ("claim, heartbeat, report (in-process or HTTP)", 208, 522)),
]


def main():
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 590" role="img" font-family="sans-serif" font-size="12" fill="#222">',
        "<title>Parts of Study Governor and the calls between them</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#444"/></marker></defs>',
        '<rect width="900" height="590" rx="8" fill="#ffffff"/>',
    ]
    for path, label in ARROWS:
        parts.append(f'<path d="{path}" fill="none" stroke="#444" stroke-width="1.3" marker-end="url(#tip)"/>')
        if label:
            parts.append(f'<text x="{label[1]}" y="{label[2]}" font-size="11" fill="#555">{escape(label[0])}</text>')
    for left, top, width, height, colour, title, lines in BOXES.values():
        parts.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" fill="{colour}" stroke="#666"/>')
        parts.append(f'<text x="{left + 10}" y="{top + 21}" font-weight="bold" font-size="13">{escape(title)}</text>')
        for number, line in enumerate(lines):
            parts.append(f'<text x="{left + 10}" y="{top + 40 + 16 * number}">{escape(line)}</text>')
    Path(__file__).with_name("architecture.svg").write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
