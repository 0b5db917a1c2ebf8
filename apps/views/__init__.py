"""The pages of the dashboard: each is a function ``show(folder)`` that draws and asks."""
