"""Programs that use up processes, memory, space, output, descriptors or time, or that outlive their test.

Limits for them are those of test_hostile_programs.py: ESCAPED means that a program got far more.
"""

from hostile_programs import RESOURCES, Hostile, attack, c_program


def resource(name: str, body: str) -> Hostile:
    return attack(name, RESOURCES, body)


_MEMORY = """
    import mmap
    MIB = 2**20
    def touch(area, size):
        for offset in range(0, size, 4096):
            area[offset] = 1
"""

PROGRAMS = (
    resource(
        "fork bomb",
        """
        started = 0
        def bomb():
            nonlocal started
            while True:
                try:
                    if os.fork() == 0:
                        started = 0
                    else:
                        started += 1
                except OSError:
                    if started > 60:
                        escaped("processes")
        bomb()
        """,
    ),
    c_program(
        "fork bomb in C",
        RESOURCES,
        """
        #include <stdio.h>
        #include <unistd.h>
        int main() { for (int n = 0;; n++) { if (fork() < 0 && n > 1000) usleep(1000); } }
        """,
    ),
    resource(
        "children without end, each by the last",
        """
        import time
        for count in range(10**6):
            if os.fork():
                os._exit(0)
        """,
    ),
    resource(
        "thread bomb",
        """
        import threading, time
        threading.stack_size(65536)
        for count in range(10**5):
            threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
            if count > 60: return "threads"
        """,
    ),
    resource("memory: one list", "x = []\nwhile len(x) < 4 * 10**8:\n    x += [0] * 10**6\nreturn 'memory'"),
    resource(
        "memory: many children",
        """
        import time
        for count in range(64):
            if not os.fork():
                kept = bytearray(os.urandom(2**20)) * 50
                time.sleep(100)
        time.sleep(5)
        return "memory"
        """,
    ),
    resource(
        "memory: private mappings",
        _MEMORY
        + "    kept = [mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(32)]\n"
        "    for area in kept:\n        touch(area, 64 * MIB)\n    return 'memory'",
    ),
    c_program(
        "memory: shared, the most of it unmapped",
        RESOURCES,
        """
        #include <fcntl.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/mman.h>
        int main(void) {
          int zero = open("/dev/zero", O_RDWR);
          long total = 0;
          for (int i = 0; i < 32; i++) {
            size_t size = 64 << 20;
            char *area = mmap(0, size + 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            if (area == MAP_FAILED) area = mmap(0, size + 4096, 3, MAP_SHARED, zero, 0);
            if (area == MAP_FAILED) return 1;
            memset(area, 1, size);
            munmap(area, size);
            total += size;
          }
          if (total > 1 << 30) puts("ESCAPED memory");
          return 0;
        }
        """,
    ),
    c_program(
        "memory: page tables of empty memory",
        RESOURCES,
        """
        #include <stdio.h>
        #include <sys/mman.h>
        int main(void) {
          volatile char sum = 0;
          for (int i = 0; i < 2000; i++) {
            char *area = mmap(0, 1L << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (area == MAP_FAILED) return 1;
            for (long offset = 0; offset < 1L << 30; offset += 1 << 21) sum += area[offset];
          }
          puts("ESCAPED memory");
          return sum;
        }
        """,
    ),
    c_program(
        "memory: huge pages held by pipes",
        RESOURCES,
        """
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <sys/uio.h>
        #include <unistd.h>
        int main(void) {
          int ends[2], held = 0;
          for (int i = 0; i < 60; i++) {
            if (pipe(ends)) return 1;
            for (int k = 0; k < 16; k++, held++) {
              size_t size = 2 << 20;
              char *area = aligned_alloc(size, size);
              if (!area) return 1;
              madvise(area, size, MADV_HUGEPAGE);
              area[0] = 1;
              struct iovec part = {area, 1};
              if (vmsplice(ends[1], &part, 1, 0) != 1) return 1;
              munmap(area, size);
            }
          }
          if (held > 500) puts("ESCAPED memory");
          return 0;
        }
        """,
    ),
    resource(
        "memory: files in memory (memfd)",
        """
        for count in range(64):
            number = libc.memfd_create(b"x", 0)
            if number < 0: return
            os.write(number, bytes(2**24))
        return "memory"
        """,
    ),
    resource(
        "memory: System V",
        """
        number = libc.shmget(0, ctypes.c_size_t(2**26), 0o1600)
        return number >= 0 and "shmget"
        """,
    ),
    resource(
        "memory: socket buffers",
        """
        import socket
        kept, total = [], 0
        while total < 2**28:
            try:
                pair = socket.socketpair()
                pair[0].setblocking(False)
                kept.append(pair)
                while True:
                    total += pair[0].send(bytes(65536))
            except BlockingIOError:
                pass
            except OSError:
                if not os.fork():
                    for one, other in kept:
                        one.close(), other.close()
                    kept = []
                else:
                    import time
                    time.sleep(100)
        return "memory"
        """,
    ),
    resource(
        "memory: connections that nobody accepts",
        """
        import socket
        server = socket.socket(socket.AF_UNIX)
        server.bind("\\0backlog")
        server.listen(4096)
        total = 0
        for count in range(4096):
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                client.connect("\\0backlog")
                try:
                    while True:
                        total += client.send(bytes(65536))
                except BlockingIOError:
                    pass
            if total > 2**29: return "memory"
        """,
    ),
    resource(
        "memory: events that nobody reads",
        """
        watchers = [libc.inotify_init1(0) for _ in range(60)]
        folder = os.getcwd()
        for number in watchers:
            if number < 0 or libc.inotify_add_watch(number, folder.encode(), 0xFFF) < 0: return
        for count in range(3000):
            name = folder + "/" + str(count).zfill(200)
            open(name, "w").close()
            os.remove(name)
        return "events"
        """,
    ),
    resource("memory: a huge integer", "x = 1\nwhile True: x <<= 10**8"),
    Hostile("memory: a huge string for the test", RESOURCES, "def f(x):\n    return 'x' * 10**8"),
    Hostile(
        "memory: a deep list for the test", RESOURCES, "x = []\nfor _ in range(10**6): x = [x]\ndef f(y):\n    return x"
    ),
    Hostile("memory: a wide list for the test", RESOURCES, "def f(x):\n    return [[] for _ in range(10**7)]"),
    resource(
        "fills every folder",
        """
        import glob
        total = 0
        for place in ["/tmp", "/dev/shm", "/dev", "/var/tmp", "/run", "/", "/sandbox", "/proc", "{folder}"]:
            for count in range(40):
                try:
                    with open(f"{place}/fill{count}", "wb") as file:
                        for _ in range(4):
                            total += file.write(bytes(2**20))
                            file.flush()
                except OSError:
                    pass
        return total > 2**26 and "space"
        """,
    ),
    resource(
        "files without end",
        """
        for count in range(10**5):
            os.mkdir(str(count))
            if count > 20000: return "files"
        """,
    ),
    resource("one sparse file", "with open('big', 'wb') as file:\n    file.truncate(2**40)\nreturn 'size'"),
    Hostile("output without end", RESOURCES, "def f(x):\n    while True: print('x' * 10**5)"),
    Hostile("errors without end", RESOURCES, "import os\nwhile True: os.write(2, b'x' * 65536)"),
    resource("descriptors", "kept = []\nwhile len(kept) < 3000: kept.append(os.pipe())\nreturn 'descriptors'"),
    Hostile("sleeps for ever", RESOURCES, "import time\ndef f(x):\n    time.sleep(10**6)"),
    Hostile("computes for ever", RESOURCES, "def f(x):\n    while True: pass"),
    Hostile("computes in a child", RESOURCES, "import os\nif not os.fork():\n    while True: pass\nos.wait()"),
    Hostile(
        "computes in orphans",
        RESOURCES,
        "import os, time\nif not os.fork():\n    os.fork()\n    while True: pass\ntime.sleep(100)",
    ),
    Hostile(
        "computes in children that nobody waits for",
        RESOURCES,
        """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if not os.fork():
        end = time.process_time() + 0.1
        while time.process_time() < end: pass
        os._exit(0)
    time.sleep(0.1)
""",
    ),
    Hostile(
        "ignores signals",
        RESOURCES,
        """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f(x):
    while True: pass
""",
    ),
    resource(
        "a daemon that outlives its test",
        """
        import time
        if not os.fork():
            os.setsid()
            if os.fork(): os._exit(0)
            time.sleep(1.5)
            with open("{folder}/daemon", "w") as file:
                file.write("ESCAPED")
            os._exit(0)
        """,
    ),
    resource(
        "zombies",
        """
        for count in range(70):
            if not os.fork(): os._exit(0)
        return "processes"
        """,
    ),
    Hostile("stops itself", RESOURCES, "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    Hostile(
        "stops its whole group",
        RESOURCES,
        "import os, signal\nfor _ in range(5):\n    if not os.fork(): break\nos.killpg(0, signal.SIGSTOP)",
    ),
    Hostile(
        "a regular expression that explodes",
        RESOURCES,
        "import re\ndef f(x):\n    return re.match('(a+)+$', 'a' * 64 + 'b')",
    ),
    Hostile("deep recursion", RESOURCES, "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    return f(x)"),
    Hostile("a deep expression", RESOURCES, "def f(x):\n    return eval('(' * 10**5 + ')' * 10**5)"),
    Hostile("a long computation of constants", RESOURCES, "def f(x):\n    return 9**9**9 % 7"),
)
