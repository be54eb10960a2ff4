package enroll

import (
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
)

// Whatever an agent sends, what parse takes is a request that the state machine knows, with the descriptors it needs.
func FuzzPacket(f *testing.F) {
	for _, request := range []*zds.WorkloadRequest{
		{Payload: &zds.WorkloadRequest_Add{Add: &zds.AddWorkload{Uid: "u", WorkloadInfo: &zds.WorkloadInfo{Name: "n", Namespace: "ns", ServiceAccount: "sa"}}}},
		{Payload: &zds.WorkloadRequest_Del{Del: &zds.DelWorkload{Uid: "u"}}},
		{Payload: &zds.WorkloadRequest_Keep{Keep: &zds.KeepWorkload{Uid: "u"}}},
		{Payload: &zds.WorkloadRequest_SnapshotSent{SnapshotSent: &zds.SnapshotSent{}}},
		{Payload: &zds.WorkloadRequest_Stop{Stop: &zds.StopWorkload{Uid: "u"}}},
		{Payload: &zds.WorkloadRequest_Add{Add: &zds.AddWorkload{Uid: "u", WorkloadInfo: &zds.WorkloadInfo{Name: "n"}, HandOver: true, Listeners: []*zds.Listener{{Address: "[::]:15008"}, {Address: "127.0.0.1:15053", Udp: true}}}}},
	} {
		data, err := proto.Marshal(request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, 0)
		f.Add(data, 1)
		f.Add(data, 3)
	}
	f.Fuzz(func(t *testing.T, data []byte, files int) {
		request, err := parse(data, files)
		if err != nil {
			return
		}
		if _, isAdd := request.GetPayload().(*zds.WorkloadRequest_Add); isAdd != (files == 1+len(request.GetAdd().GetListeners())) || (!isAdd && files != 0) {
			t.Errorf("%v is taken with %d descriptors", request, files)
		}
		if request.GetPayload() == nil {
			t.Errorf("%x is taken as a request of no kind", data)
		}
	})
}

func TestShortenKeepsCharactersWhole(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("x", maxError), strings.Repeat("€", 400), strings.Repeat("x", 5000), strings.Repeat("x", maxError-1) + "€€€"} {
		got := shorten(text)
		if !utf8.ValidString(got) || len(got) > maxError+len("€…")+1 || (len(text) <= maxError && got != text) {
			t.Errorf("shorten of %d bytes is %d bytes, valid %v", len(text), len(got), utf8.ValidString(got))
		}
	}
}
