"""Where the pages are, and what their addresses say: `study?study=NAME`, `trial?study=NAME&trial=N`.

`to_...` goes there at once and ends the run; `..._href` is for a link in HTML, relative so that it also works behind a
path of a proxy; `..._link` is a link that does not load the page anew.
"""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import urlencode

import streamlit as st

from automl.errors import NotFound

STUDIES = "screens/studies.py"
STUDY = "screens/study.py"
TRIAL = "screens/trial.py"
WHAT_IF = "screens/what_if.py"
COMPARE = "screens/compare.py"
WORKERS = "screens/workers.py"
MODELS = "screens/models.py"


def to_studies() -> NoReturn:
    st.switch_page(STUDIES)


def to_study(name: str) -> NoReturn:
    st.switch_page(STUDY, query_params={"study": name})


def to_trial(name: str, number: int) -> NoReturn:
    st.switch_page(TRIAL, query_params={"study": name, "trial": str(number)})


def to_what_if(name: str) -> NoReturn:
    st.switch_page(WHAT_IF, query_params={"study": name})


def to_model(name: str) -> NoReturn:
    st.switch_page(MODELS, query_params={"model": name})


def study_href(name: str) -> str:
    return "study?" + urlencode({"study": name})


def trial_href(name: str, number: int) -> str:
    return "trial?" + urlencode({"study": name, "trial": number})


def what_if_href(name: str) -> str:
    return "what_if?" + urlencode({"study": name})


def model_href(name: str) -> str:
    return "models?" + urlencode({"model": name})


def study_link(label: str, name: str) -> None:
    """`label` is Markdown; for a user's text see `theme.markdown_text`."""
    st.page_link(STUDY, label=label, query_params={"study": name})


def trial_link(label: str, name: str, number: int) -> None:
    st.page_link(TRIAL, label=label, query_params={"study": name, "trial": str(number)})


def model_link(label: str, name: str) -> None:
    st.page_link(MODELS, label=label, query_params={"model": name})


def named_study() -> str:
    """The study in this page's address. Raises `NotFound` when it names none."""
    name = st.query_params.get("study")
    if not name:
        raise NotFound("study: the address of this page names none; choose one from the list", field="study")
    return name


def named_trial() -> int:
    """The trial in this page's address. Raises `NotFound` when it names none."""
    text = st.query_params.get("trial", "")
    if not text.isdecimal():
        raise NotFound(f"trial: {text!r} is no number of a trial; choose one from the study", field="trial")
    return int(text)
