"""The window: the only room that imports gradio.

main    `python gui.py`: flags, the one running window, the server, the browser, the end
window  header, tabs and footer of one language
theme   the look of Gradio's own controls
server  the web server: routes, pages, who may ask for what
state   what is true for every page: the training, the open dataset, test pictures
shared  what several tabs need: texts, plots, addresses of files, dialogs
tabs    one package a tab
"""
