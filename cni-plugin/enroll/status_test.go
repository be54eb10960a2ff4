package enroll

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/cni-plugin/zds"
	"github.com/tulle-mesh/tulle/mesh/status"
)

func pod(name, uid string) Pod {
	return Pod{Workload: zds.Workload{UID: uid, Namespace: "demo", Name: name}}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTheStatusFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "status")
	file := filepath.Join(dir, "node1.yaml")
	s := NewStatuses(dir, "node1")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Set(pod("b", "1"), status.Enabled))
	if _, err := os.Stat(file); err == nil {
		t.Error("written before it was opened")
	}
	must(s.Open())
	must(s.Set(pod("a", "2"), status.Pending))
	if diff := cmp.Diff("node: \"node1\"\npods:\n  \"demo/a\": {uid: \"2\", state: pending}\n  \"demo/b\": {uid: \"1\", state: enabled}\n", read(t, file)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	must(s.Set(pod("a", "3"), status.Enabled)) // a new pod of the same name
	must(s.Remove(pod("a", "2")))              // the old one's end comes late
	if got := s.All()["demo/a"].State; got != status.Enabled {
		t.Errorf("status of the new pod is %q", got)
	}
	must(s.Remove(pod("a", "3")))
	must(s.Remove(pod("b", "1")))
	must(s.Remove(pod("b", "1")))
	if diff := cmp.Diff("node: \"node1\"\npods: {}\n", read(t, file)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestAStatusThatCantBeWrittenIsWrittenByTheRetry(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "status")
	s := NewStatuses(dir, "node1")
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(pod("a", "1"), status.Enabled); err == nil {
		t.Fatal("no error without a folder")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(pod("a", "1"), status.Enabled); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "node1.yaml")); got != "node: \"node1\"\npods:\n  \"demo/a\": {uid: \"1\", state: enabled}\n" {
		t.Errorf("file is %q", got)
	}
}

func TestANameThatCantBeReadBackSpoilsNoOtherPodsStatus(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "status")
	s := NewStatuses(dir, "node1")
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(pod("bad\xff", "1"), status.Enabled); err == nil {
		t.Error("no error for a name that isn't text")
	}
	if err := s.Set(pod("a", "2"), status.Enabled); err != nil {
		t.Error(err)
	}
	file, err := status.Decode([]byte(read(t, filepath.Join(dir, "node1.yaml"))))
	if diff := cmp.Diff(status.File{Node: "node1", Pods: map[string]status.Pod{"demo/a": {UID: "2", State: status.Enabled}}}, file); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
}
