"""What is known about the blur of frames before a worker sees them.

========  ==========================================================================================
`known`   What is known about a frame's blur before a worker sees the frame
`memory`  The blur measured on the frames of one microscope, kept from one acquisition to the next
`shared`  The blur that the positions of an acquisition share, by channel and plane
========  ==========================================================================================
"""
