"""Runs a command on a terminal and types each line while the terminal does not echo.

python terminal.py LINE LINE -- COMMAND...; prints the output of the terminal and exits with the code of the command.
"""

import os
import pty
import sys
import termios
import time

split = sys.argv.index("--")
lines, command = sys.argv[1:split], sys.argv[split + 1 :]
child, terminal = pty.fork()
if child == 0:
    os.execv(command[0], command)


def is_hidden():
    return not termios.tcgetattr(terminal)[3] & termios.ECHO


shown = b""


def read():
    global shown
    try:
        piece = os.read(terminal, 4096)
    except OSError:  # Linux reports the end this way.
        piece = b""
    shown += piece
    return piece


for line in lines:
    asked = shown.count(b": ")
    while shown.count(b": ") == asked and read():
        pass
    deadline = time.monotonic() + 30
    while not is_hidden():
        assert time.monotonic() < deadline, shown
        time.sleep(0.01)
    os.write(terminal, line.encode() + b"\n")
while read():
    pass
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
