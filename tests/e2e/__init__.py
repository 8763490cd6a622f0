"""The window in a real browser, by mouse and by keyboard."""
