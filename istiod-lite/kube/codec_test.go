package kube

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

type message interface{ Marshal() ([]byte, error) }

// encoded is an object as the API server sends it, in protobuf and in JSON.
func encoded(t testing.TB, kind string, object message) map[encoding][]byte {
	t.Helper()
	raw, err := object.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: kind}, Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	text = append([]byte(`{"kind":"`+kind+`",`), text[1:]...)
	return map[encoding][]byte{inProtobuf: slices.Concat(magic, envelope), inJSON: text}
}

func podNamed(name, address string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "demo", ResourceVersion: "7", UID: "u", Generation: 3},
		Spec:       corev1.PodSpec{NodeName: "node1"},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: address}}},
	}
}

func pods() *corev1.PodList {
	return &corev1.PodList{
		ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "more"}, Items: []corev1.Pod{podNamed("a", "10.0.0.1"), podNamed("b", "nonsense")},
	}
}

// codecFor reads objects of a kind.
func codecFor(t testing.TB, kind string, encoding encoding) codec {
	t.Helper()
	i := slices.IndexFunc(decode.Kinds(), func(k decode.Kind) bool { return k.Kind == kind })
	for _, info := range codecsOf(decode.Kinds()[i], []string{"default"}) {
		if c := info.Serializer.(codec); c.encoding == encoding {
			return c
		}
	}
	t.Fatal("no codec")
	return codec{}
}

// checkPods are those of pods: one good, and one that can't be used.
func checkPods(t *testing.T, items []*item) {
	t.Helper()
	if len(items) != 2 {
		t.Fatalf("%d items", len(items))
	}
	good, bad := items[0], items[1]
	if pod, ok := good.object.(*model.Pod); !ok || good.err != nil || pod.Node != "node1" || good.Name != "a" {
		t.Errorf("a: %+v", good)
	}
	if bad.object != nil || bad.err == nil || !strings.HasPrefix(bad.err.Error(), "status.podIPs[0].ip: ") ||
		bad.Namespace != "demo" || bad.Name != "b" || bad.ResourceVersion != "7" || bad.UID != "u" || bad.Generation != 3 {
		t.Errorf("b: %+v", bad)
	}
}

func TestAnObjectThatCantBeUsedStopsNoOther(t *testing.T) {
	for encoding, data := range encoded(t, "PodList", pods()) {
		list := new(page)
		if _, _, err := codecFor(t, "Pod", encoding).Decode(data, nil, list); err != nil || list.ResourceVersion != "9" || list.Continue != "more" {
			t.Fatalf("protobuf %v: %+v, %v", encoding, list, err)
		}
		checkPods(t, list.Items)
	}
	var items []*item
	for _, encoding := range []encoding{inProtobuf, inJSON} {
		items = nil
		for _, pod := range pods().Items {
			object, _, err := codecFor(t, "Pod", encoding).Decode(encoded(t, "Pod", &pod)[encoding], nil, nil)
			if err != nil {
				t.Fatalf("protobuf %v: %v", encoding, err)
			}
			items = append(items, object.(*item))
		}
		checkPods(t, items)
	}
}

// The API server takes any bytes for the name of an owner, which couldn't be said to proxies: it would keep the control plane from being ready.
func TestWhatIsNoTextBecomesSome(t *testing.T) {
	controls := true
	pod := podNamed("a", "10.0.0.1")
	pod.OwnerReferences = []metav1.OwnerReference{{Kind: "Kind\xff", Name: "\xff", APIVersion: "v1", UID: "o", Controller: &controls}}
	for encoding, data := range encoded(t, "Pod", &pod) {
		object, _, err := codecFor(t, "Pod", encoding).Decode(data, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		read, ok := object.(*item).object.(*model.Pod)
		if !ok || !utf8.ValidString(read.Owner.Name) || !utf8.ValidString(read.Owner.Kind) || read.Owner.Name == "" {
			t.Errorf("protobuf %v: %+v", encoding, object)
		}
	}
}

func TestARefusalIsReadInPlaceOfAnAnswer(t *testing.T) {
	status := &metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired}
	for encoding, data := range encoded(t, "Status", status) {
		for _, into := range []runtime.Object{nil, new(page)} {
			object, _, err := codecFor(t, "Pod", encoding).Decode(data, nil, into)
			if got, ok := object.(*metav1.Status); !ok || err != nil || got.Code != 410 || got.Reason != metav1.StatusReasonExpired {
				t.Errorf("protobuf %v: %v, %v", encoding, object, err)
			}
		}
	}
}

func TestOnlyTheMarkOfABookmarkIsKept(t *testing.T) {
	mark := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "9", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
	for encoding, data := range encoded(t, "Pod", mark) {
		object, _, err := codecFor(t, "Pod", encoding).Decode(data, nil, nil)
		if err != nil || object.(*item).ResourceVersion != "9" || object.(*item).Annotations[metav1.InitialEventsAnnotationKey] != "true" {
			t.Errorf("protobuf %v: %+v, %v", encoding, object, err)
		}
	}
	pod := podNamed("a", "10.0.0.1")
	pod.Annotations = map[string]string{"much": strings.Repeat("x", 1<<10)}
	for encoding, data := range encoded(t, "Pod", &pod) {
		object, _, err := codecFor(t, "Pod", encoding).Decode(data, nil, nil)
		if err != nil || object.(*item).Annotations != nil {
			t.Errorf("protobuf %v: %+v, %v", encoding, object, err)
		}
	}
}

func TestWhatIsNoObjectIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		encoding encoding
		data     string
		want     string
	}{
		"JSON for protobuf":         {inProtobuf, `{"kind":"Pod"}`, "not protobuf of Kubernetes"},
		"protobuf that is cut":      {inProtobuf, "k8s\x00\x0a\x7f", "unexpected EOF"},
		"an encoding within":        {inProtobuf, "k8s\x00\x1a\x04gzip", `encoded as "gzip"`},
		"JSON that is cut":          {inJSON, `{"kind":"Pod"`, "unexpected end"},
		"a list":                    {inJSON, `[]`, "cannot unmarshal array"},
		"an object without version": {inJSON, `{"kind":"Pod","metadata":{"name":"a"}}`, "an object without readable metadata"},
		"metadata of another type":  {inJSON, `{"kind":"Pod","metadata":7}`, "an object without readable metadata"},
	} {
		object, _, err := codecFor(t, "Pod", c.encoding).Decode([]byte(c.data), nil, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %s, have %v, %v", name, c.want, object, err)
		}
	}
}

// FuzzDecode: whatever an answer says, what is read of it is a refusal, or objects that are good or say why not.
func FuzzDecode(f *testing.F) {
	pod := podNamed("a", "10.0.0.1")
	for _, object := range []map[encoding][]byte{encoded(f, "PodList", pods()), encoded(f, "Pod", &pod), encoded(f, "Status", &metav1.Status{Code: 410})} {
		for encoding, data := range object {
			f.Add(bool(encoding), true, data)
			f.Add(bool(encoding), false, data)
		}
	}
	f.Add(false, true, []byte(`{"kind":"PodList","items":[null,1,{"metadata":{}}]}`))
	f.Fuzz(func(t *testing.T, protobuf, listed bool, data []byte) {
		list := new(page)
		var into runtime.Object
		if listed {
			into = list
		}
		object, _, err := codecFor(t, "Pod", encoding(protobuf)).Decode(data, nil, into)
		if err != nil {
			return
		}
		items := list.Items
		if i, ok := object.(*item); ok {
			items = []*item{i}
		}
		for _, i := range items {
			if i.err == nil && (i.Name == "" || i.object == nil) || i.err != nil && i.object != nil {
				t.Errorf("neither good nor bad: %+v", i)
			}
		}
	})
}
