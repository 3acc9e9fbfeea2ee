"""Who the visitor is, where the service asks: he shows a token, or logs in through an identity provider.

A token that was typed in stays in the session, on the server: it is in no address and no cookie, and another page asks
for it again. What a visitor may not do is not offered to him; that he cannot do it is seen to by the service.
"""

from __future__ import annotations

from contextlib import suppress

import streamlit as st

from automl.engine import Engine
from automl.errors import AutoMLError
from automl.service.config import parse_roles
from automl.service.logins import Logins, Visitor
from automl.team import Scope
from dashboard import connection, theme

#: When this page was opened, by the clock of the log-ins.
_SINCE = "login.since"
#: Characters of a token, with room for blanks around it.
_LONGEST = 200


def admit() -> bool:
    """Whether the visitor may see pages; else this asks him who he is. Called at the start of each full run."""
    door = connection.door()
    if door is None:
        return True
    visitor = _by_address(door) if door.login == "oidc" else connection.visiting()
    if visitor is None:
        st.session_state.pop(connection.VISITOR, None)
        if door.login == "token":
            _ask_for_token(door)
        return False
    st.session_state[connection.VISITOR] = visitor
    _say_who(door, visitor)
    return True


def lacks(scope: Scope) -> str | None:
    """Why this visitor may not do what takes `scope`; None: he may."""
    visitor = connection.visiting()
    if visitor is None or visitor.may(scope):
        return None
    return f"This takes the scope {scope.value!r}, which you have not; whoever administers the service can give it."


def is_asked() -> bool:
    """Whether visitors are asked who they are."""
    return connection.door() is not None


def _ask_for_token(door: connection.Door) -> None:
    theme.header("Log in")
    with st.form("login", width=520):
        text = st.text_input("Token", type="password", max_chars=_LONGEST, key="login-token", autocomplete="off")
        st.caption("`automl token create NAME --scopes read` makes one. It is kept for this page only.")
        sent = st.form_submit_button("Log in", type="primary")
    if not sent:
        return
    visitor = _logins(door).by_token(text)
    if visitor is None:
        st.error("That is no good token: it is unknown, revoked, or over.")
    elif not visitor.may(Scope.READ):
        st.error("This token may not look at anything: it has not the scope 'read'.")
    else:
        st.session_state[connection.VISITOR] = visitor
        st.rerun()


def _by_address(door: connection.Door) -> Visitor | None:
    """Whoever the identity provider says is there; None, and he is told, when that is nobody who may come in."""
    if not st.user.is_logged_in:
        theme.header("Log in")
        st.button("Log in", type="primary", key="login-go", on_click=st.login)
        return None
    email = str(st.user.get("email") or "")
    logins = _logins(door)
    since = st.session_state.setdefault(_SINCE, logins.now())
    if not email or st.user.get("email_verified") is False:
        _turn_away("Your identity provider gives no e-mail address that it has verified.")
        return None
    if logins.has_ended(email, since):
        theme.empty_state("Logged out", "You have logged out on another page. Load this one again to log in.")
        return None
    visitor = logins.by_address(email, since)
    if visitor is None:
        _turn_away(f"You are logged in as {email}, and nobody has given you a role yet. Ask whoever runs this service.")
    elif not visitor.may(Scope.READ):
        _turn_away(f"You are logged in as {email}, and your role may not look at anything.")
        return None
    return visitor


def _turn_away(why: str) -> None:
    theme.empty_state("Not for you yet", why)
    st.button("Log out", key="login-out", on_click=st.logout)


def _say_who(door: connection.Door, visitor: Visitor) -> None:
    identity = visitor.identity
    who = str(st.user.get("email")) if door.login == "oidc" else identity.who
    with st.container(key="who", horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        st.html(
            f'<span class="am-muted">{theme.escape(who)} · {theme.escape(identity.project)}</span>', width="content"
        )
        st.button("Log out", key="login-out", type="tertiary", on_click=_log_out, args=(door,))


def _log_out(door: connection.Door) -> None:
    st.session_state.pop(connection.VISITOR, None)
    if door.login == "oidc":
        with suppress(AutoMLError):  # the database is away: the token ends by itself, and only this process had it
            _logins(door).end(str(st.user.get("email")))
        st.logout()


def _logins(door: connection.Door) -> Logins:
    return _kept_logins(connection.direct(), door)


@st.cache_resource(show_spinner=False)
def _kept_logins(_engine: Engine, _door: connection.Door) -> Logins:
    return Logins(_engine, parse_roles(_door.roles))
