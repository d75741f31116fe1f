"""The command: both pages into `docs/`."""

from scripts.api_docs.pages import PAGES, render

if __name__ == "__main__":
    for language, path in PAGES.items():
        path.write_text(render(language), encoding="utf-8")
