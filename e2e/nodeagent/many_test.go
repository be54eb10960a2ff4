package nodeagent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
)

const (
	manyPods   = 250
	mostMemory = 60 << 20 // bytes
)

// A full node's pods run already when the agent comes, as after its first installation: all are found by their processes,
// and enrolled. The time is only said, for the machine may be busy; the memory has a limit.
func TestAFullNode(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "tulle-cni-agent")
	if text, err := exec.Command("go", "build", "-buildvcs=false", "-o", plain, "github.com/tulle-mesh/tulle/cni-plugin/node-agent").CombinedOutput(); err != nil {
		t.Fatalf("build without the race detector: %v\n%s", err, text)
	}
	w := newWorld(t, ambient)
	w.program = plain
	for i := range manyPods {
		w.pod(fmt.Sprintf("pod-%03d", i), podSpec{})
	}
	began := time.Now()
	w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	w.eventually(strconv.Itoa(manyPods), func() string {
		list, err := w.Client().CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
		w.must(err)
		enabled := 0
		for _, p := range list.Items {
			if p.Annotations["ambient.istio.io/redirection"] == "enabled" {
				enabled++
			}
		}
		return strconv.Itoa(enabled)
	})
	took, busy := time.Since(began), w.busy()
	time.Sleep(verifyInterval) // once more around all pods: this is measured, not waited for
	resident := w.resident()
	t.Logf("%d pods enrolled %.1f s after the agent's start, which took it %.1f s of CPU; it has %d MiB in memory", manyPods, took.Seconds(), busy.Seconds(), resident>>20)
	if resident > mostMemory {
		t.Errorf("the agent has %d bytes in memory, more than %d", resident, mostMemory)
	}
}

// verifyInterval is how often the agent looks at each pod.
const verifyInterval = 10 * time.Second

// resident is the agent's memory, in bytes.
func (w *world) resident() int {
	w.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	w.must(err)
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kilobytes, err := strconv.Atoi(strings.Fields(rest)[0])
	w.must(err)
	return kilobytes << 10
}

// busy is the agent's CPU time.
func (w *world) busy() time.Duration {
	w.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.pid))
	w.must(err)
	fields := strings.Fields(string(data)) // our own program: its name has no space
	sum := time.Duration(0)
	for _, field := range fields[13:15] {
		ticks, err := strconv.Atoi(field)
		w.must(err)
		sum += time.Duration(ticks) * time.Second / 100
	}
	return sum
}
