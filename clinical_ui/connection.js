// Says that the server does not answer in a line at the top, in place of Streamlit's dialog, which
// would cover what is being drawn and take the keyboard.

const PATIENCE_MS = 1500; // a server that is back by then was hardly missed
const WORDS =
  "The hospital's server does not answer; this page goes on asking. " +
  "What you drew is kept in this tab.";
const LOOKS = {
  position: "fixed",
  top: "8px",
  left: "50%",
  transform: "translateX(-50%)",
  zIndex: "1000000", // above Streamlit's header
  padding: "8px 16px",
  borderRadius: "4px",
  background: "#7f1d1d",
  color: "#ffffff",
  font: "600 15px 'Source Sans', sans-serif",
  width: "max-content",
  maxWidth: "90vw",
};

let stop = () => {}; // Streamlit calls again whenever it draws the page anew

export default function () {
  stop();
  const line = document.createElement("div");
  line.setAttribute("role", "alert");
  Object.assign(line.style, LOOKS);
  let timer = 0;

  const say = () => {
    line.textContent = WORDS;
    document.body.append(line); // the component itself takes no room on the page
  };
  const look = () => {
    const app = document.querySelector("[data-testid=stApp]");
    const state = app?.dataset.testConnectionState; // as Streamlit 1.67 tells it on its page
    if (!state || state === "CONNECTED") {
      clearTimeout(timer);
      timer = 0;
      line.remove();
      return;
    }
    timer ||= setTimeout(say, PATIENCE_MS);
    for (const dialog of document.querySelectorAll("[role=dialog]")) {
      const title = dialog.querySelector("[slot=title]")?.textContent;
      if (title === "Connection error") dialog.querySelector("button[aria-label=Close]")?.click();
    }
  };

  const observer = new MutationObserver(look);
  observer.observe(document.body, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: ["data-test-connection-state"],
  });
  stop = () => {
    observer.disconnect();
    clearTimeout(timer);
    line.remove();
  };
  return stop;
}
