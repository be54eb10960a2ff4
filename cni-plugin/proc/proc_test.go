package proc

import (
	"testing"
)

func TestWhosePodAProcessIs(t *testing.T) {
	const uid = "2c48913c-b29f-11e7-9350-020968147796"
	for name, c := range map[string]struct{ file, want string }{
		"cgroupfs, version 1":          {"12:devices:/kubepods/besteffort/pod" + uid + "/0123\n1:name=systemd:/kubepods/besteffort/pod" + uid + "/0123\n", uid},
		"cgroupfs, version 2":          {"0::/kubepods/pod" + uid + "/7b2e\n", uid},
		"systemd, version 2":           {"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2c48913c_b29f_11e7_9350_020968147796.slice/cri-containerd-7b2e.scope\n", uid},
		"systemd, guaranteed":          {"0::/kubepods.slice/kubepods-pod2c48913c_b29f_11e7_9350_020968147796.slice/crio-7b2e.scope/container\n", uid},
		"below a kubelet's own slice":  {"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod2c48913c_b29f_11e7_9350_020968147796.slice/x\n", uid},
		"seen from a cgroup namespace": {"0::/../../pod" + uid + "/7b2e\n", uid},
		"a pod of a file":              {"0::/kubepods/burstable/pod1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f/7b2e\n", "1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f"},
		"a pod in a pod":               {"0::/kubepods/pod11111111-1111-1111-1111-111111111111/x/kubepods/pod" + uid + "/7b2e\n", uid},
		"not in a pod":                 {"0::/system.slice/containerd.service\n", ""},
		"CRI-O's monitor":              {"0::/machine.slice/crio-conmon-7b2e.scope\n", ""},
		"a word that ends in pod":      {"0::/tripod" + uid + "/x\n", ""},
		"too long for a uid":           {"0::/kubepods/pod" + uid + "0/x\n", ""},
		"too short for a uid":          {"0::/kubepods/pod2c48913c-b29f-11e7-9350-02096814779/x\n", ""},
		"not a line of a cgroup file":  {"pod" + uid + "\n", ""},
		"nothing":                      {"", ""},
	} {
		if got, err := podUID(c.file); got != c.want || err != nil {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func TestWhenAProcessStarted(t *testing.T) {
	tail := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21\n"
	for name, c := range map[string]struct {
		file string
		want uint64
		bad  bool
	}{
		"plain":              {"7 (pause)" + tail, 4711, false},
		"an evil name":       {"7 (a) R 1 (b) )" + tail, 4711, false},
		"cut off":            {"7 (pause) S 1 2 3", 0, true},
		"no name":            {"7 pause S", 0, true},
		"nothing":            {"", 0, true},
		"not a number of it": {"7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20", 0, true},
		"more than 64 bits":  {"7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99999999999999999999 20", 0, true},
	} {
		got, err := startTime(c.file)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
}

func FuzzProcessFiles(f *testing.F) {
	f.Add("0::/kubepods/pod2c48913c-b29f-11e7-9350-020968147796/x\n")
	f.Add("7 (pause) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20")
	f.Fuzz(func(t *testing.T, text string) {
		uid, _ := podUID(text)
		if uid != "" && len(uid) < 32 {
			t.Errorf("uid %q", uid)
		}
		_, _ = startTime(text)
	})
}
