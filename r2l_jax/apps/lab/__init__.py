"""A page on which a raw file is processed: sliders for every parameter, and the view of a trained model.

`engine` computes, `session` keeps the state of one visitor, `page` lays it out, and `server` serves it. Only the last
two need NiceGUI.
"""
