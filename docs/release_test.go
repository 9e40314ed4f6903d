package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"dbgsh/internal/testkit"
)

// commit is what the releases that tests build say they are built of.
const commit = "0123456789ab"

// release is make dist's folder, of the sources in dir, for somebody with that umask
// and environment.
func release(t *testing.T, dir, umask string, env ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dist")
	cmd := exec.Command("sh", "-c", `umask `+umask+`; exec make -s dist DIST="$1" COMMIT="$2" SOURCE_DATE_EPOCH=1700000000`, "sh", out, commit)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(env, "MAKEFLAGS=")...)
	if text, err := cmd.CombinedOutput(); err != nil || len(text) > 0 {
		t.Fatalf("make dist in %s: %v\n%s", dir, err, text)
	}
	return out
}

// copySources copies the repository without what is built, and returns where to.
func copySources(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "elsewhere")
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.Join(to, strings.TrimPrefix(path, ".."))
		switch rel := strings.TrimPrefix(path, "../"); {
		case rel == ".git" || rel == "bin" || rel == "dist":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(name, 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(name, text, 0o700)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// contents is what the regular files of a folder hold.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}

// versionOf is a version that a file of the repository names.
func versionOf(t *testing.T, file, pattern string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(pattern).FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s has no %s", file, pattern)
	}
	return string(m[1])
}

// TestRelease builds what is released, twice, and looks at it from outside.
func TestRelease(t *testing.T) {
	testkit.Need(t, "make", "go", "tar", "gzip", "sha256sum")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cache, "dbgsh", "nfpm-"+versionOf(t, "../Makefile", `(?m)^NFPM_VERSION = (\S+)$`), "nfpm")); err != nil {
		testkit.Missing(t, "%v; make dist puts it there", err)
	}
	version := versionOf(t, "../cmd/dbgsh/version.go", `(?m)^const version = "(.*)"$`)
	dir := release(t, "..", "022")
	all := contents(t, dir)

	t.Run("files", func(t *testing.T) {
		var want, sums []string
		for _, form := range []string{"dbgsh-%s-1.aarch64.rpm", "dbgsh-%s-1.x86_64.rpm", "dbgsh-%s-linux-amd64.tar.gz", "dbgsh-%s-linux-arm64.tar.gz", "dbgsh_%s_amd64.deb", "dbgsh_%s_arm64.deb"} {
			name := fmt.Sprintf(form, version)
			want = append(want, name)
			sums = append(sums, fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(all[name])), name))
		}
		if text := strings.Join(sums, ""); len(all) != len(want)+1 || all["SHA256SUMS"] != text {
			t.Errorf("there are %d files; SHA256SUMS is\n%swant\n%s", len(all), all["SHA256SUMS"], text)
		}
	})
	t.Run("reproducible", func(t *testing.T) {
		again := contents(t, release(t, copySources(t), "077", "TZ=Asia/Kathmandu", "LC_ALL=C.UTF-8", "USER=somebody", "HOSTNAME=elsewhere"))
		for name, text := range all {
			if again[name] != text {
				t.Errorf("%s is another one where others build it", name)
			}
		}
	})
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		t.Run(arch, func(t *testing.T) {
			top := fmt.Sprintf("dbgsh-%s-linux-%s", version, arch)
			program := archived(t, all[top+".tar.gz"], top)
			f, err := elf.Open(program)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Machine != machine {
				t.Errorf("it is for %v", f.Machine)
			}
			if libraries, _ := f.ImportedLibraries(); len(libraries) > 0 || slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
				t.Errorf("it is not static: %q", libraries)
			}
			run := []string{program}
			if arch != runtime.GOARCH {
				run = []string{map[string]string{"arm64": "qemu-aarch64", "amd64": "qemu-x86_64"}[arch], program}
				testkit.Need(t, run[0])
			}
			text, err := exec.Command(run[0], append(run[1:], "-gdb", "/nonexistent", "-version")...).Output()
			if want := fmt.Sprintf("dbgsh %s (commit %s, ", version, commit); err != nil || !strings.HasPrefix(string(text), want) {
				t.Errorf("it says %q (%v), want %q", text, err, want)
			}
		})
	}
	t.Run("debian", func(t *testing.T) { debian(t, cache, dir, version) })
}

// archived unpacks bin/dbgsh from an archive, and looks at the other files.
func archived(t *testing.T, archive, top string) string {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{}
	for _, name := range []string{
		"bin/dbgsh", "share/man/man1/dbgsh.1.gz", "share/bash-completion/completions/dbgsh",
		"share/zsh/site-functions/_dbgsh", "share/fish/vendor_completions.d/dbgsh.fish", "share/dbgsh/scripts/tour.dbgsh",
		"share/doc/dbgsh/copyright", "share/doc/dbgsh/README.md", "share/doc/dbgsh/CHANGELOG.md", "share/doc/dbgsh/docs/commands.md",
	} {
		missing[top+"/"+name] = true
	}
	program := filepath.Join(t.TempDir(), "dbgsh")
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		delete(missing, h.Name)
		want := int64(0o644)
		if h.FileInfo().IsDir() || h.Name == top+"/bin/dbgsh" {
			want = 0o755
		}
		if h.Mode != want || h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s: mode %o, owner %d:%d, of %v", h.Name, h.Mode, h.Uid, h.Gid, h.ModTime)
		}
		if h.Name == top+"/bin/dbgsh" {
			text, err := io.ReadAll(r)
			if err := errors.Join(err, os.WriteFile(program, text, 0o700)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name := range missing {
		t.Errorf("%s is missing", name)
	}
	return program
}

// debian installs the package in a fresh Debian 12, which has no network, and
// looks at what works there.
func debian(t *testing.T, cache, dir, version string) {
	deb := filepath.Join(dir, fmt.Sprintf("dbgsh_%s_%s.deb", version, runtime.GOARCH))
	switch {
	case os.Getuid() != 0 || exec.Command("unshare", "--mount", "true").Run() != nil:
		t.Log("left out: the package in a fresh Debian, which takes root and the right to mount")
		return
	case runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64":
		t.Logf("left out: the package in a fresh Debian, since there is none for %s", runtime.GOARCH)
		return
	}
	image := filepath.Join(cache, "dbgsh", "debian-12.tar")
	if _, err := os.Stat(image); err != nil {
		testkit.Missing(t, "%v; .ci/debian-root makes it", err)
	}
	root := t.TempDir()
	// Its devices are this machine's: not everywhere can they be made.
	if text, err := exec.Command("tar", "-x", "--numeric-owner", "--exclude=./dev/*", "-C", root, "-f", image).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for name, file := range map[string]string{"dbgsh.deb": deb, "dbgsh.rpm": filepath.Join(dir, "dbgsh-"+version+"-1."+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]+".rpm")} {
		text, err := os.ReadFile(file)
		if err := errors.Join(err, os.WriteFile(filepath.Join(root, "tmp", name), text, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	// What is mounted, and every process, is gone when the command is.
	const enter = `mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$@"`
	in := func(command string) string {
		t.Helper()
		cmd := exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", enter, "sh", root, "sh", "-c", command)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive"}
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v", command, err)
		}
		return string(text)
	}
	for _, c := range []struct{ command, want string }{
		{"if command -v gdb dbgsh; then echo before; fi", `^$`},
		{"apt-get -q install -y --no-install-recommends /tmp/dbgsh.deb", `(?s)Setting up gdb .*Setting up dbgsh `},
		{"apt-cache depends dbgsh", `(?s)Depends: gdb\n.*Recommends: gdb-multiarch\n.*Recommends: gdbserver\n`},
		{"dbgsh -version", `^dbgsh ` + regexp.QuoteMeta(version) + ` \(commit ` + commit + `, .*\n/usr/bin/gdb: GNU gdb `},
		{"dbgsh -n -batch -ex 'print 6*7'", `^\$1 = 42\n$`},
		{"dbgsh -n -batch -ex starti -ex 'vmmap true' /bin/true", `(?m)^►.* r-xp .*/bin/true`},
		{"man -w dbgsh", `^/usr/share/man/man1/dbgsh\.1\.gz\n$`},
		{"man dbgsh | head", `(?s)^DBGSH\(1\) .*NAME\n +dbgsh - a shell around GDB`},
		{"whatis dbgsh", `^dbgsh \(1\) +- a shell around GDB`},
		{`bash -c '. /usr/share/bash-completion/bash_completion
			_completion_loader dbgsh; complete -p dbgsh
			COMP_WORDS=(dbgsh -color n); COMP_CWORD=2; _dbgsh; echo "${COMPREPLY[@]}"'`, `(?m)^complete .*_dbgsh dbgsh$\n^never$`},
		{`zsh -fc 'autoload -Uz compinit && compinit -D && echo $_comps[dbgsh] && autoload +X _dbgsh && functions _dbgsh'`, `(?s)^_dbgsh\n.*-color`},
		{`fish -c 'complete -C "dbgsh -color n"'`, `^never\t`},
		{"ls /usr/share/dbgsh/scripts /usr/share/doc/dbgsh", `(?s)tour\.dbgsh\n.*CHANGELOG\.md\n.*copyright\n`},
		{"rpm -qp --queryformat '%{BUILDHOST} %{BUILDTIME}' /tmp/dbgsh.rpm", `^localhost 1700000000$`},
		{"rpm -qlp --requires /tmp/dbgsh.rpm", `(?s)^gdb\n.*/usr/bin/dbgsh\n.*/usr/share/man/man1/dbgsh.1.gz\n.*/usr/share/zsh/site-functions/_dbgsh\n`},
		{"mkdir /tmp/r && rpm --root /tmp/r -i --nodeps /tmp/dbgsh.rpm 2>/dev/null && /tmp/r/usr/bin/dbgsh -version && cmp /tmp/r/usr/bin/dbgsh /usr/bin/dbgsh", `^dbgsh `},
		{"dpkg --purge dbgsh >/dev/null && find / -xdev -name '*dbgsh*' ! -path '/tmp/*' ! -path '/var/cache/man/*'", `^$`},
	} {
		if got := in(c.command); !regexp.MustCompile(c.want).MatchString(got) {
			t.Errorf("%s shows\n%s\nwant %s", c.command, got, c.want)
		}
	}
}
