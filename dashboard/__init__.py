"""The dashboard: Streamlit pages over `automl.connect`, which is all that they know of the system.

`app.py` is the script that Streamlit runs. The pages are files in `screens/`, and what they share lies beside it: the
folder is not named `pages`, because Streamlit would then run one of its files alone, without the frame, when the very
first visit of a server is to its address. Modules import each other as `from dashboard import theme`.
"""
