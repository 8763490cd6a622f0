"""What several tabs need and no page owns.

texts          what the window says, in the languages it speaks
crash          an error nobody foresaw, whole and without what is private
plot           lines over training steps as SVG
signed_urls    addresses of files that a page may show
upload_check   which files the data of a page may name
file_dialog    the system's dialogs for files and folders, and completion of typed paths
file_manager   shows a folder in the system's file manager
"""
