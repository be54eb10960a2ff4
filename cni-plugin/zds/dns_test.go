package zds_test

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/zds"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
)

// log is what a server has said.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Two settings say whether pods' DNS questions go to the proxy, one on either side.
func TestSettingsOfDNSThatDisagreeAreTold(t *testing.T) {
	for _, test := range []struct {
		name           string
		sends, answers bool
		want           string
	}{
		{"both", true, true, ""},
		{"neither", false, false, ""},
		{"only the agent", true, false, "set ISTIO_META_DNS_CAPTURE=true there"},
		{"only the proxy", false, true, "set --dns-capture here"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var said log
			s := &server{Server: zds.NewServer(slog.New(slog.NewTextHandler(&said, nil))), t: t, socket: filepath.Join(t.TempDir(), "ztunnel.sock")}
			s.SendsDNS(test.sends)
			s.serve()
			fakeproxy.ConnectDNS(t, s.socket, test.answers)
			select {
			case <-s.Snapshots():
			case <-time.After(patience):
				t.Fatal("no snapshot was taken")
			}
			status, told := s.Disagreement(), strings.Contains(said.String(), "disagree")
			if told != (test.want != "") || !strings.Contains(said.String(), test.want) || !strings.Contains(status, test.want) || (status == "") != (test.want == "") {
				t.Errorf("the status is %q, the log %q; want %q", status, said.String(), test.want)
			}
		})
	}
	s := &server{Server: zds.NewServer(slog.New(slog.DiscardHandler)), t: t, socket: filepath.Join(t.TempDir(), "ztunnel.sock")}
	s.SendsDNS(true)
	s.serve()
	s.connect(nil)
	if words := s.Disagreement(); words != "" {
		t.Errorf("of a proxy that doesn't tell: %s", words)
	}
}
