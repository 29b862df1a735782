/**
 * What Streamlit loads for the viewer's mount: a doorway to the code that came with the image.
 *
 * The viewer is mounted inside a fragment and sent again with every answer; the code is sent once.
 * Whichever arrives first waits for the other.
 */
const room = (globalThis[Symbol.for("fedgtv.viewer")] ??= { mount: null, waiting: [] });

/** Hand a mount over to the code; returns what cleans up when the mount goes away. */
export default function mount(call) {
  if (room.mount) return room.mount(call);
  let cleanUp = null;
  let gone = false;
  room.waiting.push(() => {
    if (!gone) cleanUp = room.mount(call);
  });
  return () => {
    gone = true;
    cleanUp?.();
  };
}
