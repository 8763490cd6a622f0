"""The web server behind the window: FastAPI with our own routes, and Gradio's pages beside them.

routes          all routes that are not a tab's own, and the server as a whole
pages           the pages of both languages, built one after the other
guard           who may ask for what: origins, sizes, the password of --listen
instance        the one window of a user: where it runs, how it is brought up
error_report    the error panel and the report that a person can copy
gradio_import   patch: Gradio imported without telemetry and type stubs
gradio_streams  patch: Gradio's stream of events ends without losing one
"""
