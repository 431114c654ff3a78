"""A page on which a raw file is processed: sliders for every parameter, and the predictions of a trained model.

`engine` computes, `session` keeps the state, `page` lays it out, and `server` serves it. Only the last
two need NiceGUI.
"""
