package enroll_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/ztunnel/enroll"
)

func TestAgentIsToldWhetherQuestionsAreAnswered(t *testing.T) {
	for _, answers := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "zds.sock")
		r := &rig{t: t}
		r.listen(path)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- enroll.Run(ctx, enroll.Config{Socket: path, DNS: answers, Log: slog.New(slog.DiscardHandler)})
		}()
		r.listener.SetDeadline(time.Now().Add(patience))
		var err error
		if r.conn, err = r.listener.AcceptUnix(); err != nil {
			t.Fatal(err)
		}
		hello := &zds.ZdsHello{}
		r.read(hello)
		if hello.Dns == nil || hello.GetDns() != answers {
			t.Errorf("hello says %v of a proxy that answers: %t", hello, answers)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.conn.Close()
		r.listener.Close()
	}
}
