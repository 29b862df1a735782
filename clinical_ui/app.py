"""The frame around every page: banner, navigation and looks. Streamlit runs this file."""

import streamlit as st

from algorithms.contracts.errors import DataError
from clinical_ui import review_page, session, study_page, wording, worklist_page

STYLE = """
<style>
  .block-container { padding-top: 4.4rem; padding-bottom: 1rem; max-width: 1500px; }
  .fedgtv-banner { display: flex; justify-content: space-between; align-items: baseline;
    gap: 1rem; border-left: 4px solid #b45309; background: #fff7ed; color: #7c2d12;
    padding: .35rem .8rem; border-radius: 4px; font-size: .9rem; }
  .fedgtv-banner b { font-weight: 600; }
  h1 { font-size: 1.5rem !important; padding: .3rem 0 0 !important; }
  h2, h3 { font-size: 1.1rem !important; padding: .3rem 0 .2rem !important; }
  :focus-visible { outline: 3px solid #1f6f8b !important; outline-offset: 1px; }
  .fedgtv-picture { position: relative; display: inline-block; background: #000; line-height: 0;
    border-radius: 4px; overflow: hidden; }
  .fedgtv-picture img { max-width: 100%; height: auto;
    max-height: max(300px, calc(100vh - 14.5rem)); }
  .fedgtv-picture span { position: absolute; color: #fff; font: 600 15px/1 sans-serif;
    text-shadow: 0 0 3px #000, 0 0 3px #000; }
  [data-testid=stCaptionContainer] { opacity: 1 !important; }
  [data-testid=stCaptionContainer] :is(p, code) { color: #46565f !important; }
  [data-testid=stAlertContainer] { padding: .45rem .8rem; }
  [data-testid=stAlertContainer] p { font-size: .92rem; }
  .fedgtv-amount { font-size: .9rem; font-variant-numeric: tabular-nums; }
  .fedgtv-line { display: block; }
  .fedgtv-facts { border-collapse: collapse; width: 100%; font-size: .85rem; }
  .fedgtv-facts th { text-align: left; font-weight: 500; color: #51636e; width: 30%; }
  .fedgtv-facts th, .fedgtv-facts td { padding: .12rem .3rem .12rem 0; vertical-align: top; }
</style>
"""


def main() -> None:
    """Draw the frame and the page that was chosen."""
    st.set_page_config(page_title="fedgtv", page_icon="◎", layout="wide")
    st.html(STYLE)
    case = st.Page(review_page.show, title="Case", url_path="case")

    def worklist() -> None:
        worklist_page.show(
            open_annotation=lambda: st.switch_page(case),  # until there is a page to annotate
            open_review=lambda: st.switch_page(case),
        )

    page = st.navigation(
        [
            st.Page(worklist, title="Worklist", url_path="worklist", default=True),
            case,
            st.Page(study_page.show, title="Study", url_path="study"),
        ],
        position="top",
    )
    try:
        site = session.store().home.config
    except DataError as error:
        st.html(_banner(""))
        st.error(str(error))
        st.stop()
    st.html(_banner(f"{site.name}, study {site.study}"))
    page.run()


def _banner(place: str) -> str:
    """Return the banner; site and study names are checked words without markup."""
    return (
        f'<div class="fedgtv-banner" role="note"><b>⚠ {wording.RESEARCH_ONLY}</b>'
        f"<span>{place}</span></div>"
    )


main()
