"""The study of Oala et al. (TMLR 2023) on any data set: its runs, tables and figures, and the published ones."""
