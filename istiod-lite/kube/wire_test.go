package kube

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

type message interface{ Marshal() ([]byte, error) }

// wrapped is an object in protobuf as the API server sends it.
func wrapped(t testing.TB, m message) []byte {
	t.Helper()
	raw, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "X"}, Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(magic, envelope)
}

func podNamed(name string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "demo", ResourceVersion: "7"},
		Spec:       corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{Name: "app"}}},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}},
	}
}

func twoPods() *corev1.PodList {
	return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "more"}, Items: []corev1.Pod{podNamed("a"), podNamed("b")}}
}

func asJSON(t testing.TB, object any) []byte {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// frame is an event of a watch in protobuf.
func frame(t testing.TB, kind string, object []byte) []byte {
	t.Helper()
	body, err := (&metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: object}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body)
}

func line(t testing.TB, kind string, object any) []byte {
	t.Helper()
	return append(asJSON(t, map[string]any{"type": kind, "object": object}), '\n')
}

func TestAListSaysTheSameInBothEncodings(t *testing.T) {
	for encoding, body := range map[encoding][]byte{inProtobuf: wrapped(t, twoPods()), inJSON: asJSON(t, twoPods())} {
		meta, items, err := encoding.list(body)
		if err != nil || meta.ResourceVersion != "9" || meta.Continue != "more" || len(items) != 2 {
			t.Fatalf("protobuf %v: %v, %d items, %v", encoding, meta, len(items), err)
		}
		for i, name := range []string{"a", "b"} {
			var pod corev1.Pod
			if err := encoding.fill(items[i], &pod); err != nil || pod.Name != name || pod.Spec.NodeName != "node1" || pod.Status.PodIPs[0].IP != "10.0.0.1" {
				t.Errorf("protobuf %v: %v, %v", encoding, pod, err)
			}
			var meta metav1.PartialObjectMetadata
			if err := encoding.fill(items[i], &meta); err != nil || meta.Name != name || meta.Namespace != "demo" || meta.ResourceVersion != "7" {
				t.Errorf("protobuf %v: %v, %v", encoding, meta, err)
			}
		}
	}
}

func TestAWatchSaysTheSameInBothEncodings(t *testing.T) {
	pod := podNamed("a")
	for encoding, stream := range map[encoding][]byte{
		inProtobuf: slices.Concat(frame(t, "ADDED", wrapped(t, &pod)), frame(t, "BOOKMARK", wrapped(t, &pod))),
		inJSON:     slices.Concat(line(t, "ADDED", pod), line(t, "BOOKMARK", pod)),
	} {
		events := newEvents(encoding, iotestOneByte{bytes.NewReader(stream)})
		for _, kind := range []string{"ADDED", "BOOKMARK"} {
			event, err := events.next()
			if err != nil || event.kind != kind {
				t.Fatalf("protobuf %v: %v, %v", encoding, event.kind, err)
			}
			var pod corev1.Pod
			if err := encoding.fill(event.object, &pod); err != nil || pod.Name != "a" {
				t.Errorf("protobuf %v: %v, %v", encoding, pod.Name, err)
			}
		}
		if _, err := events.next(); err != io.EOF {
			t.Errorf("protobuf %v: ends with %v", encoding, err)
		}
	}
}

// iotestOneByte gives a byte at a time, as a slow network does.
type iotestOneByte struct{ reader io.Reader }

func (r iotestOneByte) Read(p []byte) (int, error) { return r.reader.Read(p[:min(1, len(p))]) }

func TestStreamsThatAreBroken(t *testing.T) {
	pod := podNamed("a")
	whole := frame(t, "ADDED", wrapped(t, &pod))
	for name, c := range map[string]struct {
		encoding encoding
		stream   []byte
		want     string
	}{
		"a length beyond the limit":  {inProtobuf, []byte{0xff, 0xff, 0xff, 0xff}, "an event of 4294967295 bytes, more than 16777216"},
		"half a length":              {inProtobuf, whole[:3], "unexpected EOF"},
		"half a frame":               {inProtobuf, whole[:len(whole)-1], "an event that is cut off"},
		"a frame that isn't ours":    {inProtobuf, frame(t, "ADDED", []byte("{}")), "not protobuf of Kubernetes"},
		"half a line":                {inJSON, []byte(`{"type":"ADDED","obj`), "unexpected EOF"},
		"a line beyond the limit":    {inJSON, slices.Concat([]byte(`{"type":"`), bytes.Repeat([]byte("x"), maxEvent)), "an event of more than 16777216 bytes"},
		"a line that isn't an event": {inJSON, []byte(`[]`), "cannot unmarshal array"},
	} {
		if _, err := newEvents(c.encoding, bytes.NewReader(c.stream)).next(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %s, have %v", name, c.want, err)
		}
	}
}

func TestOnlyWhatKubernetesSpeaksIsRead(t *testing.T) {
	for media, want := range map[string]encoding{
		"application/json":                                   inJSON,
		"application/json; charset=utf-8":                    inJSON,
		"application/vnd.kubernetes.protobuf;stream=watch":   inProtobuf,
		"application/vnd.kubernetes.protobuf; stream=watch ": inProtobuf,
	} {
		if got, err := encodingOf(media); err != nil || got != want {
			t.Errorf("%s: %v, %v", media, got, err)
		}
	}
	for _, media := range []string{"", "text/html", "application/yaml"} {
		if _, err := encodingOf(media); err == nil || !strings.Contains(err.Error(), "is this a Kubernetes API?") {
			t.Errorf("%s: %v", media, err)
		}
	}
}

// FuzzList: whatever the body, its items lie within it.
func FuzzList(f *testing.F) {
	f.Add(true, wrapped(f, twoPods()))
	f.Add(false, asJSON(f, twoPods()))
	f.Add(true, slices.Concat(magic, []byte{0x12, 0x7f}))
	f.Add(false, []byte(`{"items":[null,1,{"metadata":{}}]}`))
	f.Fuzz(func(t *testing.T, protobuf bool, body []byte) {
		_, items, err := encoding(protobuf).list(body)
		if err != nil {
			return
		}
		size := 0
		for _, item := range items {
			size += len(item)
			var pod corev1.Pod
			_ = encoding(protobuf).fill(item, &pod)
		}
		if size > len(body) {
			t.Errorf("%d bytes of items in %d", size, len(body))
		}
	})
}

// FuzzEvents: a watch ends, with an error, whatever it says.
func FuzzEvents(f *testing.F) {
	pod := podNamed("a")
	f.Add(true, slices.Concat(frame(f, "ADDED", wrapped(f, &pod)), frame(f, "DELETED", wrapped(f, &pod))))
	f.Add(false, slices.Concat(line(f, "ADDED", pod), line(f, "ERROR", metav1.Status{Code: 410})))
	f.Add(true, []byte{0, 0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, protobuf bool, stream []byte) {
		events := newEvents(encoding(protobuf), bytes.NewReader(stream))
		for range len(stream) + 1 {
			event, err := events.next()
			if err != nil {
				return
			}
			r := new(refusal)
			if r.read(encoding(protobuf), event.object) == nil && !errors.As(error(r), &r) {
				t.Error("no refusal")
			}
		}
		t.Errorf("more events than bytes")
	})
}
