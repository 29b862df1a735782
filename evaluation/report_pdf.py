"""The study report as PDF, by WeasyPrint (the extra `fedgtv[pdf]`), which runs no script.

Nothing is fetched: the page holds all it needs. The same page gives the same bytes on one machine;
another one may have other fonts, which is why a signature covers the page and not its print.
"""

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError

PDF_FILE = "study.pdf"


def render_pdf(html: str) -> bytes:
    """Print a page that `render_html` made.

    Raises:
        DataError: when WeasyPrint, or a library beneath it, is not installed.
    """
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except (ImportError, OSError):  # OSError: Pango is missing
        raise DataError(
            "a PDF needs WeasyPrint: pip install 'fedgtv[pdf]', and Pango (Debian: "
            "libpangoft2-1.0-0), or print study.html from a browser"
        ) from None
    document = HTML(string=html, url_fetcher=URLFetcher(allowed_protocols=()))
    made: bytes = document.write_pdf(pdf_identifier=sha256_hex(html.encode()).encode()[:32])
    return made
