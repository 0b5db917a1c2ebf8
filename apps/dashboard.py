"""The dashboard: ``streamlit run apps/dashboard.py -- [DIR]``.

DIR is an analysis folder or a folder that holds several. Without it the demo's output in
``./demo`` is shown, where there is one.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import streamlit as st
from streamlit import runtime

from apps.views import results
from apps.views.folders import DEMO, HOW_TO_BEGIN, find_analyses
from apps.views.links import linked_choice, plain
from boneage_xai.errors import BoneAgeError
from boneage_xai.store import AnalysisFolder
from reports.wording import RESEARCH_USE, run_name

# Name in the address, which is also the module's, to title.
PAGES = {
    "performance": "Performance",
    "case": "Case",
    "try_it": "Try it",
    "regions": "Regions",
    "trust": "Trust",
    "stress": "Stress",
    "compare": "Compare",
    "cohort": "Cohort",
    "training": "Training",
}
# Their functions take the analysis that is looked at and all that were found; the others the first.
OF_SEVERAL = frozenset({"compare", "training"})


def main(arguments: list[str]) -> None:
    """Show the page that is asked for.

    Args:
        arguments: at most one folder.
    """
    st.set_page_config(page_title="Bone age, explained", page_icon="🦴", layout="wide")
    try:
        _show(arguments)
    except BoneAgeError as error:
        st.error(plain(str(error)))


def _show(arguments: list[str]) -> None:
    if not arguments and not DEMO.is_dir():
        st.title("Bone age, explained")
        st.markdown(HOW_TO_BEGIN)
        st.caption(RESEARCH_USE)
        return
    analyses = find_analyses(Path(arguments[0]) if arguments else DEMO)
    with st.sidebar:
        st.title("Bone age, explained")
        name = next(iter(analyses))
        if len(analyses) > 1:
            # Always in the address: an analysis that is added later may come before this one.
            name = linked_choice(st.selectbox, "Analysis", list(analyses), "analysis", named=True)
        folder = AnalysisFolder.open(analyses[name])
        page = linked_choice(st.radio, "Page", list(PAGES), "page", format_func=PAGES.__getitem__)
        st.divider()
        run = folder.manifest["run"]
        st.caption(
            f"{plain(run_name(folder))} · model {plain(str(run.get('model_id')))}  \n"
            f"{plain(str(folder.path))}"
        )
    st.caption(f":material/science: **{RESEARCH_USE}**")
    if page != "try_it":
        results.forget(results.UPLOADS)
    show = _module(page).show
    if page in OF_SEVERAL:
        show(folder, analyses)
    else:
        show(folder)
    # The page is there; the others shall not take seconds when they are asked for.
    for other in PAGES:
        _module(other)
    if runtime.exists():
        _spare_the_libraries()


@st.cache_resource(show_spinner=False)
def _spare_the_libraries() -> bool:
    """Keep what is imported by now out of garbage collections, once for all sessions.

    Streamlit collects after each run of a script. With all libraries to look through that takes
    longer than most runs, and meanwhile no session is answered.
    """
    gc.collect()
    gc.freeze()
    return True


def _module(page: str) -> ModuleType:
    return import_module(f"apps.views.{page}")


if __name__ == "__main__":
    main(sys.argv[1:])
