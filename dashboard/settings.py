"""How Streamlit is set for the dashboard: nothing of it is read from a file that a user may have lying about.

They are given as flags of `streamlit run` are, which overrule such files. No request leaves the machine: no usage
statistics, and only fonts that the reader's system has.
"""

from __future__ import annotations

from typing import Any

from dashboard import theme

_SETTINGS: dict[str, Any] = {
    "server.headless": True,  # asks for no e-mail address, opens no browser: the launcher does
    "server.showEmailPrompt": False,
    "server.fileWatcherType": "none",
    "server.runOnSave": False,
    "server.enableXsrfProtection": True,
    "server.enableCORS": True,
    "server.enableStaticServing": False,
    "server.maxUploadSize": 1,
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorLinks": False,  # they lead to search engines
    "logger.level": "warning",
    "logger.hideWelcomeMessage": True,
    "runner.magicEnabled": False,
    "theme.font": theme.FONT,
    "theme.baseRadius": "10px",
    "theme.linkUnderline": False,
}


def options(host: str, port: int) -> dict[str, Any]:
    """All settings by their names."""
    settings = _SETTINGS | {"server.address": host, "server.port": port}
    for colours in (theme.LIGHT, theme.DARK):
        settings |= _colours("theme.dark" if colours.dark else "theme.light", colours)
    return settings


def _colours(section: str, colours: theme.Palette) -> dict[str, Any]:
    return {
        f"{section}.primaryColor": colours.accent,
        f"{section}.backgroundColor": colours.page,
        f"{section}.secondaryBackgroundColor": colours.card,
        f"{section}.textColor": colours.text,
        f"{section}.linkColor": colours.accent,
        f"{section}.borderColor": colours.line,
        f"{section}.dataframeBorderColor": colours.line,
        f"{section}.dataframeHeaderBackgroundColor": colours.card,
        f"{section}.codeBackgroundColor": colours.faint,
        f"{section}.showWidgetBorder": True,
    }
