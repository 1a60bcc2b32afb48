/* The search runs in a worker, which browsers refuse to a page that is opened from the disk.  There, a hidden frame
   does the worker's work: it has the same interface, as far as the theme uses it. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.importScripts = (...urls) =>
        urls.reduce((before, each) => before.then(() => this.load(each)), Promise.resolve());
      inside.postMessage = (data) => this.tell(data);
      this.load(new URL(url, location)).then(() => {
        this.ready = true;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      });
    }
    load(url) {
      return new Promise((loaded, failed) => {
        const script = this.frame.contentDocument.createElement("script");
        Object.assign(script, {src: url, onload: loaded, onerror: failed});
        this.frame.contentDocument.body.append(script);
      });
    }
    tell(data) {
      const event = new MessageEvent("message", {data});
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }
    postMessage(data) {
      if (this.ready) this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data}));
      else this.waiting.push(data);
    }
    terminate() {
      this.frame.remove();
    }
  };
}
