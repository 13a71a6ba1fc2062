"""Trains a bundle further on a user's own frames, and refuses the result if it is worse.

========  ==========================================================================================
`page`    The page that shows a fine-tuning: images before and after, and a table
`result`  The result of a fine-tuning, frame by frame
`run`     Trains a bundle further on a user's own frames, and refuses the result if it is worse
========  ==========================================================================================
"""
