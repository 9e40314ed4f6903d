# What programs that live in GDB's start-up file do: commands, aliases and functions
# in Python, hooks that print at every stop, a prompt, printers, settings.
import gdb, sys
RED, OFF = "\033[1;31m", "\033[0m"
print(RED + "helper is ready, 90 commands" + OFF)
gdb.write("written\n")
for line in ["set confirm off", "set pagination off", "set output-radix 16", "set print address off", "set print pretty on",
             "set disassembly-flavor intel", "set style enabled on", "set python print-stack full", "set history save off",
             "alias -a dps = backtrace"]:
    gdb.execute(line)

def prompt(current):
    return RED + "helper> " + OFF
gdb.prompt_hook = prompt

class Map(gdb.Command):
    """The helper's map."""
    def __init__(self): super().__init__("vmmap", gdb.COMMAND_STATUS)
    def invoke(self, arg, tty):
        self.dont_repeat()
        print(RED + "helper's map of " + str(gdb.selected_inferior().pid) + " " + arg + OFF)
Map()
class Search(gdb.Command):
    def __init__(self): super().__init__("search-pattern", gdb.COMMAND_STATUS)
    def invoke(self, arg, tty): print("helper's search of " + arg)
Search()
gdb.execute("alias -a find-it = search-pattern")

class Base(gdb.Function):
    def __init__(self): super().__init__("_base")
    def invoke(self, *a): return gdb.parse_and_eval("(long)&main")
Base()

def context(event=None):
    print(RED + "-- registers --" + OFF)
    print("pc %#x" % int(gdb.parse_and_eval("(unsigned long)$pc")))
    print(gdb.execute("x/3i $pc", to_string=True))
    sys.stdout.flush()
    print("-- end --")
gdb.events.stop.connect(context)
gdb.events.cont.connect(lambda e: print("-- goes on --"))
gdb.events.exited.connect(lambda e: print("-- exited --"))
gdb.events.new_objfile.connect(lambda e: print("-- object --"))
gdb.events.memory_changed.connect(lambda e: print("-- memory --"))
gdb.events.before_prompt.connect(lambda: print("-- prompt --"))

class Printer:
    def __init__(self, v): self.v = v
    def to_string(self): return "a printer's text"
gdb.pretty_printers.append(lambda v: Printer(v) if v.type.strip_typedefs().code == gdb.TYPE_CODE_INT else None)
