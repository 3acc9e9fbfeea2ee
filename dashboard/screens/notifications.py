"""Who is told of what, whether it works, and what was told lately."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from automl.display import format_count
from automl.team import Channel, Delivery, Scope
from dashboard import actions, connection, live, login, pieces, theme

#: Deliveries that are shown.
SHOWN = 50

_CHIPS = {
    "delivered": ("var(--am-complete)", "✓"),
    "waits": ("var(--am-muted)", "○"),
    "tried again": ("var(--am-warn)", "↻"),
    "given up": ("var(--am-failed)", "✕"),
}


def main() -> None:
    if lacking := login.lacks(Scope.ADMIN):
        theme.header("Notifications")
        theme.empty_state("Not for everybody", lacking)
        return
    drawn = _look()
    channels, deliveries = drawn
    theme.header("Notifications", detail=format_count(len(channels), "channel"))
    if not channels:
        theme.empty_state(
            "Nobody is told of anything", "A channel brings what happens to a webhook, to Slack, or by mail."
        )
        st.code("automl notify add team --slack https://hooks.slack.com/services/...", language="bash")
    for channel in channels:
        _card(channel)
    if deliveries:
        st.html('<h2 class="am-section">What was told lately</h2>')
        st.html(_table(deliveries, connection.engine().clock()))
    live.follow(_look, drawn)


def _look() -> tuple[list[Channel], list[Delivery]]:
    channels = connection.engine().channels
    return channels.all(), channels.deliveries(limit=SHOWN)


def _card(channel: Channel) -> None:
    with st.container(key=f"card-channel-{channel.name}", horizontal=True, vertical_alignment="center"):
        signed = pieces.chip("signed", "var(--am-good)") if channel.signed else ""
        private = pieces.chip("private addresses too", "var(--am-warn)") if channel.allow_private else ""
        chips = pieces.chip(channel.kind.value) + signed + private
        subjects = theme.escape(", ".join(channel.subjects))
        st.html(
            f'<div class="am-alias"><b>{theme.escape(channel.name)}</b>{chips}'
            f'<span class="am-muted">{theme.escape(_shown(channel))}<br>{subjects}</span></div>',
            width="stretch",
        )
        if st.button("Test", key=f"test-{channel.name}", help="Send it a message that says nothing but that it came"):
            actions.test_channel(channel.name)


def _shown(channel: Channel) -> str:
    """Where it goes, without the path: that of a hook is as good as a password."""
    scheme, there, rest = channel.address.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/…" if there else channel.address


def _table(deliveries: Sequence[Delivery], now: float) -> str:
    rows = []
    for item in deliveries:
        word = _word(item)
        colour, glyph = _CHIPS[word]
        error = f'<br><small class="am-muted">{theme.escape(item.error)}</small>' if item.error else ""
        when = theme.ago(now - item.delivered_at) if item.delivered_at is not None else _next(item, now)
        text = theme.escape(str(item.payload.get("text", item.subject.value)))
        chip = pieces.chip(word, colour, glyph)
        rows.append([theme.escape(item.channel), f"{chip}{error}", when, f"{item.attempts}", text])
    return pieces.table(["channel", "state", "when", "tries", "what"], rows, numbers=frozenset({3}))


def _word(item: Delivery) -> str:
    if item.delivered_at is not None:
        return "delivered"
    if item.given_up_at is not None:
        return "given up"
    return "waits" if item.error is None else "tried again"


def _next(item: Delivery, now: float) -> str:
    if item.given_up_at is not None:
        return theme.ago(now - item.given_up_at)
    left = item.next_at - now
    return "now" if left <= 0 else f"in {theme.duration(left)}"


main()
