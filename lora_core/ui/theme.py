"""The look of Gradio's own controls, in the colours of assets/treino.css."""

from __future__ import annotations

import gradio as gr

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "Cascadia Mono", "Consolas", "Menlo", "monospace")
# Gradio's name to ours; ours are light or dark by themselves.
_COLOURS = {
    "body_background_fill": "paper",
    "body_text_color": "ink",
    "body_text_color_subdued": "muted",
    "background_fill_primary": "paper",
    "background_fill_secondary": "panel",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "block_background_fill": "paper",
    "block_border_color": "line",
    "block_label_text_color": "ink",
    "block_label_background_fill": "panel",
    "block_title_text_color": "ink",
    "block_info_text_color": "muted",
    "panel_background_fill": "panel",
    "input_background_fill": "paper",
    "input_border_color": "line",
    "input_border_color_focus": "focus",
    "input_placeholder_color": "muted",
    "color_accent": "accent",
    "link_text_color": "accent",
    "link_text_color_hover": "accent",
    "link_text_color_active": "accent",
    "link_text_color_visited": "accent",
    "slider_color": "accent",
    "loader_color": "accent",
    "checkbox_background_color": "paper",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color": "muted",
    "checkbox_border_color_selected": "accent",
    "checkbox_label_background_fill": "panel",
    "checkbox_label_text_color": "ink",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent",
    "button_primary_text_color": "accent-ink",
    "button_primary_text_color_hover": "accent-ink",
    "button_primary_border_color": "accent",
    "button_primary_border_color_hover": "accent",
    "button_secondary_background_fill": "panel",
    "button_secondary_background_fill_hover": "line",
    "button_secondary_text_color": "ink",
    "button_secondary_text_color_hover": "ink",
    "button_secondary_border_color": "line",
    "table_text_color": "ink",
    "error_text_color": "bad",
    "error_border_color": "bad",
    "error_icon_color": "bad",
}


def _theme() -> gr.themes.Base:
    # Font names alone: a gr.themes.GoogleFont would be fetched from the network.
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        secondary_hue=gr.themes.colors.sky,
        neutral_hue=gr.themes.colors.slate,
        font=[gr.themes.Font(name) for name in _SANS],
        font_mono=[gr.themes.Font(name) for name in _MONO],
    )
    ours = {name: f"var(--{colour})" for name, colour in _COLOURS.items()}
    dark = {f"{name}_dark": value for name, value in ours.items() if hasattr(theme, f"{name}_dark")}
    return theme.set(**ours, **dark, button_primary_shadow="none", input_shadow="none", block_shadow="none")


THEME = _theme()
