package cgroup

import (
	"slices"
	"testing"
)

func TestHierarchiesOfEveryKindOfMachineAreFound(t *testing.T) {
	const second = "30 23 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	tests := map[string]struct {
		groups, mounts string
		want           []Hierarchy
	}{
		"version 2": {"0::/user.slice\n", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", []Hierarchy{{"/sys/fs/cgroup", ""}}},
		"both": {
			"3:memory:/\n2:cpu,cpuacct:/x\n1:name=systemd:/\n0::/\n",
			"31 23 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" + second +
				"32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n33 23 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
			[]Hierarchy{
				{"/sys/fs/cgroup/memory", "memory"}, {"/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"}, {"/sys/fs/cgroup/systemd", "name=systemd"},
				{"/sys/fs/cgroup/unified", ""},
			},
		},
		"a hierarchy that isn't mounted": {"2:pids:/\n0::/\n", second, []Hierarchy{{"/sys/fs/cgroup/unified", ""}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := list([]byte(test.groups), []byte(test.mounts))
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("%v %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestAMachineWithoutVersionTwoIsRefused(t *testing.T) {
	if all, err := list([]byte("3:memory:/\n0::/\n"), []byte("32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")); err == nil {
		t.Errorf("%v, want an error", all)
	}
}
