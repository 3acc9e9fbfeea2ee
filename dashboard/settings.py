"""How Streamlit is set for the dashboard: nothing of it is read from a file that a user may have lying about.

Every setting is a flag of `streamlit run`, which overrules such files. No request leaves the machine: no usage
statistics, and only fonts that the reader's system has.
"""

from __future__ import annotations

from dashboard import theme

_SETTINGS = {
    "server.headless": "true",  # asks for no e-mail address, opens no browser: the launcher does
    "server.showEmailPrompt": "false",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "server.enableXsrfProtection": "true",
    "server.enableCORS": "true",
    "server.enableStaticServing": "false",
    "server.maxUploadSize": "1",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorLinks": "false",  # they lead to search engines
    "logger.level": "warning",
    "logger.hideWelcomeMessage": "true",
    "runner.magicEnabled": "false",
    "theme.font": theme.FONT,
    "theme.baseRadius": "10px",
    "theme.linkUnderline": "false",
}


def flags(host: str, port: int) -> list[str]:
    """The arguments of `streamlit run` after the script."""
    settings = dict(_SETTINGS) | {"server.address": host, "server.port": str(port)}
    for colours in (theme.LIGHT, theme.DARK):
        settings |= _colours("theme.dark" if colours.dark else "theme.light", colours)
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def _colours(section: str, colours: theme.Palette) -> dict[str, str]:
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
        f"{section}.showWidgetBorder": "true",
    }
