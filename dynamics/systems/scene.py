"""What every MJCF scene of the systems has for the eye: light and a bright sky."""

SCENE = """<visual><headlight ambient="0.5 0.5 0.5"/></visual>
  <asset><texture type="skybox" builtin="gradient" rgb1="0.93 0.95 0.97" rgb2="1 1 1" width="64" height="64"/></asset>"""
