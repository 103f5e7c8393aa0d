"""Layouts of evaluation data, one file each: a folder of somebody's in, samples out."""
