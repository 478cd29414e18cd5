"""The report page: results → one HTML file that needs no network.

`charts` says what is drawn, `drawing` how, and `render` fills the template.
"""

from toolkit.report.page.render import render_page as render_page
