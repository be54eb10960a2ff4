package plugin

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
)

func FuzzRequest(f *testing.F) {
	f.Add(`{"Netns":"/n","PodName":"a","PodNamespace":"b","IPs":[{"Interface":0,"Address":{"IP":"10.0.0.5","Mask":"////AA=="},"Gateway":"10.0.0.1"}]}`)
	f.Add(`{"PodName":"a","PodNamespace":"b","IPs":null}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, body string) {
		r, err := readRequest(httptest.NewRequest("POST", pathAdd, strings.NewReader(body)))
		if err == nil && (r.PodName == "" || r.PodNamespace == "") {
			t.Error("a request of no pod was taken")
		}
	})
}

func FuzzConfiguration(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","cni_agent_run_dir":"/x","prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.5/24"}]}}`), "K8S_POD_NAME=a;K8S_POD_NAMESPACE=b")
	f.Add([]byte(`{}`), "=;;x")
	f.Fuzz(func(_ *testing.T, stdin []byte, args string) {
		conf, err := parse(stdin)
		if err != nil {
			return
		}
		_, _, _ = conf.pod(&skel.CmdArgs{Args: args})
		if conf.PrevResult != nil {
			_, _ = addresses(conf.PrevResult)
		}
	})
}

func TestPanicsBecomeThePluginsOwnErrors(t *testing.T) {
	err := recovered("ADD", func(*skel.CmdArgs) error { panic("bug") })(nil)
	if err == nil || err.Error() != "ADD: panic: bug" {
		t.Errorf("error is %v", err)
	}
}
