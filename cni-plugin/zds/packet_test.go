package zds

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	api "github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/handover"
)

func packet(t testing.TB, message proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func acknowledge(t testing.TB, text string) []byte {
	return packet(t, &api.WorkloadResponse{Payload: &api.WorkloadResponse_Ack{Ack: &api.Ack{Error: text}}})
}

func TestAnswersAreUnderstood(t *testing.T) {
	cases := map[string]struct {
		packet  []byte
		ok      bool
		refusal string
		err     string
	}{
		"success":                {packet: acknowledge(t, ""), ok: true},
		"refusal":                {packet: acknowledge(t, "no such namespace"), refusal: "no such namespace"},
		"empty packet":           {packet: nil, err: "without acknowledgement"},
		"garbage":                {packet: []byte{0xff, 0xff, 0xff}, err: "answer"},
		"a request as an answer": {packet: []byte{0x2a, 0x00}, err: "without acknowledgement"},
	}
	for name, c := range cases {
		_, err := parseAnswer(c.packet)
		var refusal *refusedError
		switch {
		case c.ok && err != nil, c.err != "" && (err == nil || errors.As(err, &refusal) || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error is %v", name, err)
		case c.refusal != "" && (!errors.As(err, &refusal) || refusal.Reason != c.refusal):
			t.Errorf("%s: error is %v, want the refusal %q", name, err, c.refusal)
		}
	}
}

func TestNamesTooLongForAPacketAreRefused(t *testing.T) {
	if _, err := addRequest(Workload{UID: "u", Namespace: "n", Name: strings.Repeat("x", handover.MaxPacket)}, nil, false); err == nil {
		t.Error("a request of more than a packet was made")
	}
}

func FuzzPacketsOfAProxy(f *testing.F) {
	f.Add(packet(f, &api.ZdsHello{Version: api.Version_V1}))
	f.Add(packet(f, &api.ZdsHello{Version: api.Version_V1, HandOver: true, Stopping: true}))
	f.Add(acknowledge(f, ""))
	f.Add(packet(f, &api.WorkloadResponse{Payload: &api.WorkloadResponse_Ack{Ack: &api.Ack{Listeners: []*api.Listener{{Address: "[::]:15008"}, {Address: "127.0.0.1:15053", Udp: true}}}}}))
	f.Add(acknowledge(f, "no\xffUTF-8"[:2]))
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseHello(data)
		var refusal *refusedError
		if _, err := parseAnswer(data); errors.As(err, &refusal) && refusal.Reason == "" {
			t.Error("a refusal without reason")
		}
	})
}
