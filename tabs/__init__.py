"""The studio's panels: each module has create_tab(studio), and knows the backend only through what it is given."""
