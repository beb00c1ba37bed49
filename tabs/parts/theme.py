"""How the studio looks: Gradio's theme in the studio's colours. Colours and parts that are ours are in assets/ui."""

import gradio as gr

__all__ = ["THEME", "CSS"]

ACCENT = gr.themes.Color(
    name="studio_accent", c50="#eef6f4", c100="#d9e9e6", c200="#b3d4cf", c300="#8cc3bb", c400="#62b8ae", c500="#2f8a82",
    c600="#1d6b66", c700="#185854", c800="#154744", c900="#123a38", c950="#0b2423",
)
PAPER = gr.themes.Color(
    name="studio_paper", c50="#fffefb", c100="#faf8f3", c200="#e9e4d9", c300="#d6cfc0", c400="#a69f90", c500="#7d776a",
    c600="#5e594e", c700="#4a453c", c800="#2b2824", c900="#211f1c", c950="#191816",
)
SANS = ("system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Noto Sans", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

THEME = gr.themes.Base(
    primary_hue=ACCENT, secondary_hue=ACCENT, neutral_hue=PAPER, font=SANS, font_mono=MONO,
    spacing_size=gr.themes.sizes.spacing_sm, radius_size=gr.themes.sizes.radius_sm, text_size=gr.themes.sizes.text_sm,
).set(
    # Plain values: Gradio paints the page with these before any style sheet of ours is there.
    body_background_fill="#faf8f3", body_background_fill_dark="#191816",
    body_text_color="var(--ds-ink)", body_text_color_dark="var(--ds-ink)",
    body_text_color_subdued="var(--ds-muted)", body_text_color_subdued_dark="var(--ds-muted)",
    background_fill_primary="var(--ds-card)", background_fill_primary_dark="var(--ds-card)",
    background_fill_secondary="var(--ds-paper)", background_fill_secondary_dark="var(--ds-paper)",
    border_color_primary="var(--ds-line)", border_color_primary_dark="var(--ds-line)",
    block_background_fill="transparent", block_background_fill_dark="transparent", block_border_width="0px", block_border_width_dark="0px",
    block_label_background_fill="var(--ds-card)", block_label_background_fill_dark="var(--ds-card)",
    block_label_text_color="var(--ds-muted)", block_label_text_color_dark="var(--ds-muted)",
    block_title_text_color="var(--ds-ink)", block_title_text_color_dark="var(--ds-ink)", block_title_text_weight="500",
    block_info_text_color="var(--ds-muted)", block_info_text_color_dark="var(--ds-muted)", block_shadow="none", block_padding="6px 2px",
    input_background_fill="var(--ds-card)", input_background_fill_dark="var(--ds-card)", input_border_width="1px",
    input_border_color="var(--ds-line)", input_border_color_dark="var(--ds-line)",
    button_primary_background_fill="var(--ds-accent)", button_primary_background_fill_dark="var(--ds-accent)",
    button_primary_text_color="var(--ds-card)", button_primary_text_color_dark="var(--ds-card)",
    button_primary_background_fill_hover="*primary_700", button_primary_background_fill_hover_dark="*primary_300",
    button_secondary_background_fill="var(--ds-card)", button_secondary_background_fill_dark="var(--ds-card)",
    button_secondary_border_color="var(--ds-line)", button_secondary_border_color_dark="var(--ds-line)", button_border_width="1px",
    slider_color="var(--ds-accent)", slider_color_dark="var(--ds-accent)",
)

# Gradio's own parts, brought to the same paper. The parts that are ours are in assets/ui.
CSS = """
.gradio-container { width: 100% !important; max-width: 1640px !important; margin: 0 auto; font-variant-numeric: tabular-nums; }
.gradio-container > .main { padding: 10px 24px 24px; }
.gradio-container main { width: 100%; padding: 0; }
.gradio-container .form { border: 0; background: transparent; gap: 2px; box-shadow: none; }
.gradio-container input[type=number], .gradio-container textarea, .gradio-container input[type=text] { padding: 5px 10px; }
.gradio-container input[type=range] { --neutral-200: var(--ds-line); }
/* Gradio's invitation to the camera is 240 px high, and lies over what comes below it in a lower picker. */
.gradio-container [title="grant webcam access"] .wrap { min-height: 0; height: 100%; padding: 18px 0 0; font-size: 14px; }
.gradio-container [data-testid="upload-text"] { font-size: 13px; }
.gradio-container .icon-button-wrapper:not(:has(*)) { display: none; }
@media (max-width: 640px) { .gradio-container > .main { padding: 6px 12px 20px; } }
"""
