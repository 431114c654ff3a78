"""The study of Oala et al. (TMLR 2023) on any data set: its trainings, its tables and figures, beside the published."""
