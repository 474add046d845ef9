"""Programs that read, write, reach or change what is outside: files, processes, the network, the kernel."""

from hostile_programs import DANGEROUS, FILES, INFORMATION, NETWORK, attack, c_program


def system_calls(name: str, numbers: dict[str, str], kind: str = DANGEROUS):
    """Each of the calls: the number and arguments; it has succeeded if it does not fail."""
    lines = [f"if libc.syscall({arguments}) >= 0: return {call!r}" for call, arguments in numbers.items()]
    return attack(name, kind, "\n".join(lines))


PROGRAMS = (
    attack("reads accounts", INFORMATION, "return 'root:' in open('/etc/passwd').read() and 'accounts'"),
    attack("reads passwords", INFORMATION, "return open('/etc/shadow').read() and 'passwords'"),
    attack(
        "reads homes",
        INFORMATION,
        """
        import glob
        found = [name for home in ["/root", *glob.glob("/home/*"), "/work", "/etc/ssh", "/var/log", "/mnt", "/srv"]
                 for name in glob.glob(home + "/.*") + glob.glob(home + "/*")]
        return [name for name in found if not name.startswith(sys.base_prefix) and not sys.base_prefix.startswith(name)]
        """,
    ),
    attack("reads a secret file", INFORMATION, "return open('{secret}').read() and 'the secret'"),
    attack(
        "reads environments",
        INFORMATION,
        """
        import glob
        text = repr(os.environ)
        for name in glob.glob("/proc/*/environ") + ["/proc/{pid}/environ", "/proc/1/environ", "/proc/self/environ"]:
            try: text += open(name).read()
            except OSError: pass
        return "{environment}" in text and "environment"
        """,
    ),
    attack(
        "reads command lines",
        INFORMATION,
        """
        import glob
        return any("pytest" in open(name).read() for name in glob.glob("/proc/[0-9]*/cmdline")) and "command lines"
        """,
    ),
    attack(
        "reads mounts and the kernel's log",
        INFORMATION,
        """
        for name in ("/proc/self/mountinfo", "/proc/1/mountinfo", "/dev/kmsg", "/proc/kmsg", "/sys/kernel"):
            try:
                if os.path.isdir(name) or os.open(name, os.O_RDONLY | os.O_NONBLOCK) >= 0: return name
            except OSError: pass
        """,
    ),
    c_program(
        "reads /proc in C",
        INFORMATION,
        """
        #include <stdio.h>
        #include <string.h>
        int main(void) {
          char name[64], text[65536];
          for (int pid = 1; pid < 70000; pid++) {
            const char *kinds[] = {"environ", "mem", "maps"};
            for (int k = 0; k < 3; k++) {
              if (pid > 2 && k) continue;
              if (pid == 2) continue;
              snprintf(name, sizeof name, "/proc/%d/%s", pid, kinds[k]);
              FILE *file = fopen(name, "r");
              if (!file) continue;
              size_t count = fread(text, 1, sizeof text, file);
              if (pid == 1 && count) puts("ESCAPED first process");
              for (size_t i = 0; i + 10 < count; i++)
                if (!memcmp(text + i, "{environment}", strlen("{environment}"))) puts("ESCAPED environment");
              fclose(file);
            }
          }
          return 1;
        }
        """,
    ),
    attack(
        "host name", INFORMATION, "import socket\nreturn open('/etc/hostname').read() == socket.gethostname() + chr(10)"
    ),
    attack(
        "writes to system folders",
        FILES,
        """
        for folder in (
            "/usr", "/usr/bin", "/usr/lib", "/etc", "/sandbox/codellama_jax/sandbox/inside",
            "/dev", "/dev/shm/..", "/proc", "/",
            os.path.dirname(os.__file__), "/var", "/opt", "/home", "/root", "{folder}",
        ):
            try:
                with open(folder + "/hostile", "w"): return folder
            except OSError: pass
        """,
    ),
    attack(
        "changes Python's library",
        FILES,
        """
        with open(os.__file__, "a") as file:
            return "library"
        """,
    ),
    attack(
        "writes to a file of the host",
        FILES,
        "with open('{secret}', 'w') as file: file.write('x')\nreturn 'the secret'",
    ),
    attack(
        "removes, renames and changes rights",
        FILES,
        """
        for call in (
            lambda: os.chmod("{secret}", 0), lambda: os.rename("{secret}", "{secret}.x"), lambda: os.remove("{secret}"),
            lambda: os.rename("/usr", "/usr2"), lambda: os.chmod("/usr/bin/env", 0o777), lambda: os.rmdir("/dev/shm"),
            lambda: os.chown("/tmp", 0, 0), lambda: os.utime("/usr/bin/env"), lambda: os.truncate("/usr/bin/env", 0),
            lambda: os.setxattr("/usr/bin/env", "user.x", b"x"),
        ):
            try: call()
            except OSError: continue
            return "changed"
        """,
    ),
    attack(
        "removes a tree",
        FILES,
        """
        import shutil
        shutil.rmtree("{folder}")
        return "removed"
        """,
    ),
    attack(
        "links out",
        FILES,
        """
        for source in ("{secret}", "/etc/shadow", "/root/.bashrc"):
            try: os.link(source, "hard")
            except OSError: pass
            else: return "hard link"
            os.symlink(source, os.path.basename(source))
            try:
                if open(os.path.basename(source)).read(): return "link"
            except OSError: pass
        return os.path.exists("../../../../../../etc/shadow")
        """,
    ),
    attack(
        "files with more rights",
        FILES,
        """
        import shutil, subprocess
        shutil.copy("/usr/bin/id", "id")
        os.chmod("id", 0o6755)
        if "uid=0" in subprocess.run(["./id"], capture_output=True, text=True).stdout: return "setuid"
        for number in ((1, 1), (1, 5), (8, 0), (254, 0)):
            try: os.mknod("device%d" % number[0], 0o600 | 0o020000, os.makedev(*number))
            except OSError: continue
            return "device"
        return subprocess.run(["su", "-c", "id"], capture_output=True, input=b"").returncode == 0 and "su"
        """,
    ),
    attack(
        "sockets of every family",
        NETWORK,
        """
        import socket
        opened = []
        for family in range(2, 46):
            for kind in (1, 2, 3, 5):
                for call in (socket.socket, socket.socketpair):
                    try: call(family, kind)
                    except OSError: continue
                    opened.append(family)
        return opened
        """,
    ),
    attack(
        "connects to the host by TCP",
        NETWORK,
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1).send(b'x')\nreturn 'connected'",
    ),
    attack(
        "sends to the host by UDP",
        NETWORK,
        "import socket\nreturn socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {port})) and 'sent'",
    ),
    attack(
        "connects to an abstract name of the host",
        NETWORK,
        "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0{socket}')\nreturn 'connected'",
    ),
    attack(
        "connects to sockets of services",
        NETWORK,
        """
        import glob, socket
        for name in ["/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/notify", "/dev/log"]:
            try: socket.socket(socket.AF_UNIX, 2 if "notify" in name or "log" in name else 1).connect(name)
            except OSError: continue
            return name
        """,
    ),
    attack("asks for a name", NETWORK, "import socket\nreturn socket.getaddrinfo('localhost', 80) and 'name'"),
    system_calls(
        "mounts and namespaces",
        {
            "mount": '165, b"none", b"/tmp", b"tmpfs", 0, 0',
            "umount": '166, b"/proc", 2',
            "unshare user": "272, 0x10000000",
            "unshare mounts": "272, 0x20000",
            "clone": "56, 0x10000000 | 17, 0, 0, 0, 0",
            "setns": "308, 0, 0",
            "chroot": '161, b"/tmp"',
            "pivot_root": '155, b"/tmp", b"/tmp"',
            "fsopen": '430, b"tmpfs", 0',
            "open_tree": '428, -100, b"/", 1',
        },
    ),
    attack(
        "more rights",
        DANGEROUS,
        """
        for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
            try: call()
            except OSError: continue
            return "user"
        header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
        return libc.capset(header, sets) == 0 and "capabilities"
        """,
    ),
    attack(
        "more rights by its namespace",
        DANGEROUS,
        """
        for name, text in (("uid_map", "0 0 1"), ("setgroups", "allow")):
            try:
                with open(f"/proc/self/{name}", "w") as file: file.write(text)
            except OSError: continue
            return name
        import resource
        for name in range(16):
            soft, hard = resource.getrlimit(name)
            try: resource.setrlimit(name, (hard, hard + 1 if hard > 0 else hard))
            except (OSError, ValueError): continue
            if 0 < hard: return f"limit {name}"
        """,
    ),
    attack(
        "signals every process",
        DANGEROUS,
        """
        import signal
        os.kill({pid}, 0)
        return "the host's process"
        """,
    ),
    attack(
        "kills whom it can",
        DANGEROUS,
        """
        import signal
        for pid in (os.getppid(), 1, -1):
            for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
                try: os.kill(pid, number)
                except OSError: pass
        """,
    ),
    system_calls(
        "debugs its parent",
        {
            "ptrace": "101, 16, os.getppid(), 0, 0",
            "ptrace self": "101, 0, 0, 0, 0",
            "process_vm_readv": "310, 1, 0, 0, 0, 0, 0",
            "process_vm_writev": "311, 1, 0, 0, 0, 0, 0",
            "kcmp": "312, 1, 1, 0, 0, 0",
            "pidfd_getfd": "438, libc.syscall(434, os.getppid(), 0), 0, 0",
        },
    ),
    system_calls(
        "the kernel's young interfaces",
        {
            "io_uring": "425, 1, ctypes.create_string_buffer(120)",
            "keyctl": "250, 0, -3, 1",
            "add_key": '248, b"user", b"x", b"x", 1, -3',
            "bpf": "321, 5, ctypes.create_string_buffer(120), 120",
            "userfaultfd": "323, 1",
            "perf_event_open": "298, ctypes.create_string_buffer(120), 0, -1, -1, 0",
            "open_by_handle_at": "304, -100, ctypes.create_string_buffer(140), 0",
            "memfd_create": '319, b"x", 0',
            "memfd_secret": "447, 0",
            "fanotify": "300, 0, 0",
            "quotactl": "179, 0x80000400, 0, 0, 0",
        },
    ),
    system_calls(
        "the machine's settings",
        {
            "syslog": "103, 10, 0, 0",
            "sethostname": '170, b"x", 1',
            "settimeofday": "164, ctypes.create_string_buffer(16), 0",
            "personality": "135, 0x0040000",
            "iopl": "172, 3",
            "ioperm": "173, 0, 1, 1",
            "init_module": '175, 0, 0, b""',
            "kexec": "246, 0, 0, 0, 0",
            "reboot": "169, 0xfee1dead, 672274793, 0, 0",
            "swapoff": '168, b"/x"',
            "acct": "163, 0",
            "x32 getpid": "0x40000000 + 39",
        },
    ),
    c_program(
        "system calls of 32 bits",
        DANGEROUS,
        """
        #include <stdio.h>
        int main(void) {
          int result;
          __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory"); /* getpid */
          if (result > 0) puts("ESCAPED i386");
          return 1;
        }
        """,
    ),
    attack(
        "descriptors that it inherits",
        DANGEROUS,
        """
        import fcntl, stat
        found = []
        for number in range(3, 1024):
            try: flags = fcntl.fcntl(number, fcntl.F_GETFL)
            except OSError: continue
            found.append((number, flags, os.fstat(number).st_mode))
        # the test's channel alone
        return [entry for entry in found if entry[0] != 3 or not stat.S_ISSOCK(entry[2])]
        """,
    ),
    attack(
        "types on a terminal",
        DANGEROUS,
        """
        import fcntl, termios
        for number in (0, 1, 2, 3):
            try: fcntl.ioctl(number, termios.TIOCSTI, b"x")
            except OSError: continue
            return "typed"
        return os.open("/dev/tty", os.O_RDWR) >= 0 and "terminal"
        """,
    ),
    attack(
        "starts other programs",
        DANGEROUS,
        """
        import subprocess
        done = subprocess.run("id -u; cat {secret}; touch {folder}/started", shell=True, capture_output=True, text=True)
        return (done.stdout.startswith("0\\n") or "secret" in done.stdout) and done.stdout
        """,
    ),
    attack(
        "uses memory of other processes",
        DANGEROUS,
        """
        for process in ("self", os.getppid(), 1, {pid}):
            try:
                with open(f"/proc/{process}/mem", "r+b"): return process
            except OSError: pass
        """,
    ),
)
