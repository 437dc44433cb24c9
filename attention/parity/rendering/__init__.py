"""A report as one page: no script that is needed, no address that is fetched, light and dark, wide and narrow.

page(report)                              the table, histograms of z, error maps, attention maps, environment
page(report, divergence, diagnosis)       beside it the aligned trace with the divergence marked, and the mistake's name
"""

from __future__ import annotations

from attention._extras import require

require("jinja2", extra="report", wanted_by="report.to_html")
require("matplotlib", extra="report", wanted_by="report.to_html")

from attention.parity.rendering.html import page  # noqa: E402 - what it imports was just asked for

__all__ = ["page"]
