"""Seeded articulated puppets: looks, dance motion, exact 133 keypoints, pictures, and pairs for training and judging.

Axes: x to the picture's right, y up from the floor, z to the viewer; a puppet that faces the viewer has its left side at +x.
The unit of length is the puppet's standing height; angles are degrees. Pixels count from the picture's top left corner,
so the middle of the first pixel is (0.5, 0.5). Pictures are uint8 RGB [H, W, 3].
"""

# Changes when the same seeds give other pictures, motions or keypoints.
__version__ = "2"
